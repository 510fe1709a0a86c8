//! Checkpoints are checked when they are added by the rules by which the engine reads them: a file that does not run is
//! refused with its name or with the missing file, and an assumption is a warning.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::test_server::{TestServer, checkpoint, text};
use crate::tiny_flux;

const LDM: &str = "model.diffusion_model.";

/// A file with tensors of these names.
fn file(names: &[&str]) -> Vec<u8> {
    let entry = |at: usize| json!({"dtype": "F32", "shape": [4, 4], "data_offsets": [64 * at, 64 * at + 64]});
    let header: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), entry(at))).collect();
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 64 * names.len()]].concat()
}

async fn refusal(server: &TestServer, files: &[(&str, Vec<u8>)]) -> String {
    let answer = server.import("x", None, files).await;
    answer.refuses(422, "file");
    text(&answer.body["errors"][0]["message"])
}

/// Published files that people choose by mistake, by a few of their tensors.
#[tokio::test]
async fn what_people_choose_by_mistake_is_refused_by_its_name() {
    let server = TestServer::new().await;
    let of_ldm = |names: &[&str]| names.iter().map(|name| format!("{LDM}{name}")).collect::<Vec<_>>();
    let flux = ["double_blocks.0.img_attn.qkv.weight", "img_in.weight", "single_blocks.0.linear1.weight"];
    let with = |more: &[&str]| [&flux[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let plain = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (named, advice, names) in [
        ("Stable Diffusion 3", "what runs here", of_ldm(&["joint_blocks.0.x_block.attn.qkv.weight"])),
        (
            "ControlNet",
            "another model",
            plain(&["control_model.input_blocks.0.0.weight", "control_model.input_hint_block.0.weight"]),
        ),
        (
            "ControlNet",
            "another model",
            plain(&["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.attentions.0.proj_in.weight"]),
        ),
        (
            "ControlNet-LLLite",
            "another model",
            plain(&["lllite_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k.down.0.weight"]),
        ),
        ("IP-Adapter", "another model", plain(&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"])),
        (
            "IP-Adapter",
            "another model",
            plain(&["ip_adapter.1.to_k_lora.down.weight", "ip_adapter.1.to_k_lora.up.weight"]),
        ),
        ("T2I-Adapter", "another model", plain(&["adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"])),
        ("AnimateDiff", "another model", plain(&["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"])),
        ("textual inversion", "another model", plain(&["emb_params"])),
        ("textual inversion", "another model", plain(&["clip_g", "clip_l"])),
        ("upscaler", "what runs here", plain(&["conv_first.weight", "body.0.rdb1.conv1.weight"])),
        ("upscaler", "what runs here", plain(&["body.0.weight", "body.1.weight", "body.2.weight"])),
        (
            "autoencoder",
            "`vae`",
            plain(&["decoder.mid.attn_1.q.weight", "decoder.conv_in.weight", "encoder.conv_in.weight"]),
        ),
        (
            "autoencoder",
            "model_index.json",
            plain(&["decoder.mid_block.attentions.0.to_q.weight", "encoder.conv_in.weight"]),
        ),
        ("UNet", "model_index.json", plain(&["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight", "mid_block.x"])),
        ("FLUX.1", "model_index.json", plain(&["single_transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"])),
        ("CLIP", "`text_encoder`", plain(&["text_model.embeddings.token_embedding.weight"])),
        ("OpenCLIP bigG", "`text_encoder_2`", plain(&["text_model.encoder.layers.31.mlp.fc1.weight"])),
        ("T5", "`text_encoder_2`", plain(&["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"])),
        (
            "UMT5",
            "what runs here",
            plain(&["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "shared.weight"]),
        ),
        ("image encoder", "what runs here", plain(&["vision_model.encoder.layers.0.mlp.fc1.weight"])),
        ("Wan", "what runs here", plain(&["blocks.0.self_attn.q.weight", "patch_embedding.weight", "head.modulation"])),
        ("Wan or Qwen-Image", "what runs here", plain(&["decoder.middle.0.residual.0.gamma", "encoder.conv1.weight"])),
        ("LTX-Video", "what runs here", plain(&["patchify_proj.weight", "adaln_single.linear.weight"])),
        ("HunyuanVideo", "what runs here", with(&["txt_in.individual_token_refiner.blocks.0.mlp.fc1.weight"])),
        ("Qwen-Image", "what runs here", plain(&["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"])),
        (
            "Z-Image",
            "what runs here",
            plain(&["layers.0.attention.qkv.weight", "cap_embedder.0.weight", "noise_refiner.0.x"]),
        ),
        ("PixArt", "what runs here", plain(&["adaln_single.linear.weight", "blocks.0.cross_attn.kv_linear.weight"])),
        ("AuraFlow", "what runs here", plain(&["double_layers.0.attn.w1q.weight", "init_x_linear.weight"])),
        ("HiDream", "what runs here", plain(&["double_stream_blocks.0.block.attn1.to_q.weight"])),
        (
            "Stable Cascade",
            "what runs here",
            plain(&["clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"]),
        ),
        (
            "Kolors",
            "what runs here",
            [of_ldm(&["input_blocks.0.0.weight", "label_emb.0.0.weight"]), plain(&["encoder_hid_proj.weight"])]
                .concat(),
        ),
        ("FLUX.2", "what runs here", with(&["double_stream_modulation_img.lin.weight"])),
        ("Chroma", "what runs here", with(&["distilled_guidance_layer.in_proj.weight"])),
        ("bitsandbytes", "bf16", with(&["double_blocks.0.img_attn.qkv.weight.quant_map"])),
        (
            "SVDQuant",
            "bf16",
            plain(&["transformer_blocks.0.qkv_proj.qweight", "transformer_blocks.0.qkv_proj.wscales"]),
        ),
        (
            "refiner",
            "what runs here",
            [
                of_ldm(&["input_blocks.0.0.weight", "label_emb.0.0.weight"]),
                plain(&["conditioner.embedders.0.model.ln_final.weight"]),
            ]
            .concat(),
        ),
        ("language model", "what runs here", plain(&["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"])),
        ("safety checker", "another model", plain(&["concept_embeds", "special_care_embeds"])),
        ("no model that is known", "a, b", plain(&["a", "b"])),
    ] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let message = refusal(&server, &[("x.safetensors", file(&names))]).await;
        assert!(message.contains(named) && message.contains(advice), "{named}, {advice}: {message}");
    }
    assert_eq!((server.count("models").await, server.objects()), (0, 0));
}

/// The same with the parts that a denoiser of that kind would need.
#[tokio::test]
async fn parts_do_not_make_a_model_of_what_does_not_run() {
    let server = TestServer::with_checkpoint().await;
    let flux = ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"];
    let unet = ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.0.0.weight"];
    let folders = ["single_transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"];
    let cases = [
        ("FLUX.2", [&flux[..], &["double_stream_modulation_img.lin.weight"]].concat()),
        ("Chroma", [&flux[..], &["distilled_guidance_layer.in_proj.weight"]].concat()),
        ("bitsandbytes", [&flux[..], &["double_blocks.0.img_attn.qkv.weight.quant_map"]].concat()),
        ("refiner", [&unet[..], &["conditioner.embedders.0.model.ln_final.weight"]].concat()),
        ("the transformer of a FLUX.1 in the layout of folders", folders.to_vec()),
    ];
    for (named, names) in &cases {
        let part = |names: &[&str], path: &'static str| Part::bytes(file(names)).file_name(path);
        let form = |own: &str| {
            Form::new().text("name", "x").part("file", part(names, "own.safetensors")).text("kind", own.to_owned())
        };
        let borrowed = form("checkpoint").text("parts_of", "ember");
        let given = form("checkpoint")
            .part("vae", part(&["decoder.mid.attn_1.q.weight"], "ae.safetensors"))
            .part("text_encoder", part(&["text_model.embeddings.token_embedding.weight"], "clip_l.safetensors"));
        for form in [borrowed, given] {
            let answer = server.post_form("/v1/models", form).await;
            answer.refuses(422, "file");
            assert!(text(&answer.body["errors"][0]["message"]).contains(named), "{named}: {:#}", answer.body);
        }
    }
    // A part that is another one is named, too.
    let form = Form::new()
        .text("name", "x")
        .part("file", Part::bytes(file(&flux)).file_name("dev.safetensors"))
        .part("vae", Part::bytes(file(&["encoder.block.0.x", "shared.weight"])).file_name("t5.safetensors"));
    let answer = server.post_form("/v1/models", form).await;
    answer.refuses(422, "vae");
    assert!(text(&answer.body["errors"][0]["message"]).contains("T5"), "{:#}", answer.body);
    assert_eq!(server.count("models").await, 1);
}

/// The files of the checkpoint with one changed, or left out.
fn edited(path: &str, content: Option<&Value>) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = checkpoint();
    match content {
        None => files.retain(|(there, _)| !there.starts_with(path)),
        Some(content) => files.iter_mut().find(|(there, _)| *there == path).unwrap().1 = content.to_string().into(),
    }
    files
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    let server = TestServer::new().await;
    for (gone, named) in [
        ("scheduler/", "scheduler/scheduler_config.json"),
        ("tokenizer/merges.txt", "tokenizer/merges.txt"),
        ("tokenizer/vocab.json", "tokenizer/vocab.json"),
        ("tokenizer_2/tokenizer.json", "tokenizer_2/tokenizer.json"),
        ("text_encoder/config.json", "text_encoder/config.json"),
        ("vae/model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("model_index.json", "model_index.json"),
    ] {
        let message = refusal(&server, &edited(gone, None)).await;
        assert!(message.contains(&format!("`{named}` is missing")), "{gone}: {message}");
    }
    let (first, second) = ("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors");
    let map = json!({"weight_map": {"decoder.conv_in.bias": first, "more": second}});
    let mut files = edited("vae/model.safetensors", None);
    files.push(("vae/x-00001-of-00002.safetensors", checkpoint().pop().unwrap().1));
    let message = refusal(&server, &files).await;
    assert!(message.contains("vae/x-00002-of-00002.safetensors"), "{message}");
    files.push(("vae/x.safetensors.index.json", map.to_string().into()));
    let message = refusal(&server, &files).await;
    assert!(message.contains("vae/x-00002-of-00002.safetensors"), "{message}");
    assert_eq!((server.count("models").await, server.objects()), (0, 0));

    let model = server.import("x", None, &edited("tokenizer/tokenizer_config.json", None)).await.expect(201);
    assert!(text(&model["warnings"][0]).contains("tokenizer/tokenizer_config.json"), "{model:#}");
}

/// Names and shapes.
type Tensors = Vec<(String, Vec<usize>)>;
type Change<'a> = &'a dyn Fn(&mut Tensors);

/// A file with the tensors of another, changed. Its values are zeros.
fn with_tensors(file: &[u8], change: impl Fn(&mut Tensors)) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let shape = |entry: &Value| serde_json::from_value(entry["shape"].clone()).unwrap();
    let mut tensors: Tensors = header.iter().map(|(name, entry)| (name.clone(), shape(entry))).collect();
    change(&mut tensors);
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; at]].concat()
}

/// What the engine could not load is refused by the names of the tensors, and nothing is stored.
#[tokio::test]
async fn weights_that_do_not_fit_are_named() {
    let server = TestServer::new().await;
    let changed = |path: &str, change: Change| {
        let mut files = checkpoint();
        let file = &mut files.iter_mut().find(|(there, _)| *there == path).unwrap().1;
        *file = with_tensors(file, change);
        files
    };
    for (part, name) in [
        ("text_encoder", "text_model.final_layer_norm.bias"),
        ("text_encoder_2", "encoder.final_layer_norm.weight"),
        ("transformer", "single_transformer_blocks.0.attn.norm_q.weight"),
        ("vae", "decoder.conv_norm_out.bias"),
    ] {
        let path = format!("{part}/model.safetensors");
        let cases: [(&str, Change); 3] = [
            (&format!("1 missing ({name})"), &|tensors| tensors.retain(|(there, _)| there != name)),
            ("1 unused (more)", &|tensors| tensors.push(("more".to_owned(), vec![1]))),
            (&format!("1 of the wrong shape ({name}: [9] instead of ["), &|tensors| {
                tensors.iter_mut().find(|(there, _)| there == name).unwrap().1 = vec![9];
            }),
        ];
        for (misfit, change) in cases {
            let message = refusal(&server, &changed(&path, change)).await;
            let start = format!("`{path}`: weights do not fit the network: {misfit}");
            assert!(message.starts_with(&start), "{message}");
        }
    }
    let half = changed("vae/model.safetensors", &|tensors| tensors.retain(|(name, _)| name.contains("decoder")));
    let message = refusal(&server, &half).await;
    assert!(message.contains(" missing (encoder.") && message.ends_with(", …)."), "{message}");
    let config = json!({"block_out_channels": [1, 1], "layers_per_block": 1, "latent_channels": 1});
    let message = refusal(&server, &edited("vae/config.json", Some(&config))).await;
    assert!(message.contains("`vae/config.json`: no autoencoder has this shape"), "{message}");

    // As stable-diffusion.cpp's toys come: every part by a few of its tensors.
    let toy = [
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "model.diffusion_model.img_in.weight",
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight",
        "text_encoders.t5xxl.transformer.enc.blk.0.attn_q.weight",
        "first_stage_model.decoder.conv_in.weight",
    ];
    let message = refusal(&server, &[("toy.safetensors", file(&toy))]).await;
    assert!(message.starts_with("`toy.safetensors`: taken for FLUX.1: "), "{message}");
    assert!(message.contains("model.diffusion_model.final_layer.linear.weight is missing"), "{message}");
    assert_eq!((server.count("models").await, server.objects()), (0, 0));
}

/// A scheduler that is not here is a warning, and a request names another.
#[tokio::test]
async fn a_scheduler_that_does_not_run_has_to_be_named_by_requests() {
    let server = TestServer::new().await;
    let stated = |config: Value| edited("scheduler/scheduler_config.json", Some(&config));
    let heun = json!({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0});
    let model = server.import("heun", None, &stated(heun)).await.expect(201);
    let warning = text(&model["warnings"][0]);
    assert!(warning.contains("FlowMatchHeunDiscreteScheduler") && warning.contains("flow_match_euler"), "{warning}");
    assert_eq!(model["defaults"]["scheduler_required"], true);
    let answer = server.post("/v1/generations", &json!({"prompt": "a fox", "model": "heun"})).await;
    answer.refuses(422, "scheduler");
    assert!(text(&answer.body["errors"][0]["message"]).contains("flow_match_euler"), "{:#}", answer.body);
    let named = json!({"prompt": "a fox", "model": "heun", "scheduler": "flow_match_euler"});
    server.post("/v1/generations", &named).await.expect(202);

    let message = refusal(&server, &stated(json!({"_class_name": "DDIMScheduler"}))).await;
    assert!(message.contains("scheduler/scheduler_config.json") && message.contains("DDIMScheduler"), "{message}");

    // As Python writes it.
    let mut files = checkpoint();
    for (path, content) in [
        (
            "scheduler/scheduler_config.json",
            "\u{feff}{\"shift\": 3.0, \"base_image_seq_len\": 256.0, \"x\": -Infinity}",
        ),
        (
            "vae/config.json",
            "{\"block_out_channels\": [1.0, 1, 1], \"layers_per_block\": 1.0, \"latent_channels\": 1, \
              \"norm_num_groups\": 1, \"y\": NaN}",
        ),
    ] {
        files.iter_mut().find(|(there, _)| *there == path).unwrap().1 = content.into();
    }
    let model = server.import("python", None, &files).await.expect(201);
    assert_eq!((&model["warnings"], &model["defaults"]["scheduler_required"]), (&json!([]), &json!(false)));
    assert_eq!(model["defaults"]["size_multiple"], 8);
    let mut comma = checkpoint();
    comma.iter_mut().find(|(there, _)| *there == "vae/config.json").unwrap().1 = b"{\"a\": 1,}".to_vec();
    let message = refusal(&server, &comma).await;
    assert!(message.contains("`vae/config.json` is not JSON") && message.contains("line 1"), "{message}");
}

/// The grid that a model states is the one that requests keep to, also for an autoencoder of few levels.
#[tokio::test]
async fn the_stated_grid_is_the_one_of_requests() {
    let server = TestServer::new().await;
    let vae = json!({"block_out_channels": [1, 1], "layers_per_block": 1, "latent_channels": 1, "norm_num_groups": 1});
    let mut files = edited("vae/config.json", Some(&vae));
    let weights = tiny_flux::weights(formats::Part::Vae, &vae);
    files.iter_mut().find(|(path, _)| *path == "vae/model.safetensors").unwrap().1 = weights;
    let model = server.import("flat", None, &files).await.expect(201);
    assert_eq!(model["defaults"]["size_multiple"], 8);
    let ask = |width: u32| json!({"prompt": "a fox", "model": "flat", "width": width});
    server.post("/v1/generations", &ask(36)).await.refuses(422, "width");
    server.post("/v1/generations", &ask(40)).await.expect(202);
}
