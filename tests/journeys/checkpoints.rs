//! Checkpoints as people have them: what the import accepts, the engine loads, under every name that programs gave the
//! same weights; and every way of bringing a model in gives the same answer about the same files.

use std::collections::BTreeMap;

use journeys::client::{Answer, Client, text};
use journeys::flux_files::{Tensors, gguf_of, safetensors};
use journeys::hub::{HOST, Hub, OPEN};
use journeys::ldm_file::stable_diffusion;
use journeys::model::{pipeline_files, tensors};
use journeys::picture::pixels;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

type Files = Vec<(String, Vec<u8>)>;

/// A picture of a model, as pixels, and the job that made it.
async fn picture(client: &Client, model: &str, changes: &Value) -> (image::RgbImage, Value) {
    let mut body = json!({"prompt": "a red fox", "model": model, "num_inference_steps": 2, "width": 32, "height": 32,
                          "seed": 7});
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let made = client.succeeded(&client.generate(&body).await, seconds(120)).await;
    (pixels(&client.artifacts(&made).await.remove(0)), made)
}

async fn add_with_parts_of(client: &Client, name: &str, path: &str, bytes: Vec<u8>, donor: &str) -> Answer {
    let form = Form::new()
        .text("name", name.to_owned())
        .text("parts_of", donor.to_owned())
        .part("file", Part::bytes(bytes).file_name(path.to_owned()));
    client.send(client.request(Method::POST, "/v1/models").multipart(form)).await
}

fn renamed(all: &Tensors, changes: &[(&str, &str)]) -> Tensors {
    let rename = |name: &String| {
        changes.iter().fold(name.clone(), |name, (old, new)| {
            name.replace(&format!("mid.attn_1.{old}."), &format!("mid.attn_1.{new}."))
        })
    };
    all.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// Without sides of 1 at the end, where `which` applies.
fn flat(all: &Tensors, which: &str) -> Tensors {
    let shorten = |shape: &[usize]| shape.strip_suffix(&[1, 1]).unwrap_or(shape).to_vec();
    let shape = |name: &str, shape: &[usize]| if name.contains(which) { shorten(shape) } else { shape.to_vec() };
    all.iter().map(|(name, (sides, values))| (name.clone(), (shape(name, sides), values.clone()))).collect()
}

/// As ComfyUI-GGUF stores what has no rows of whole blocks, with the original shapes.
fn in_rows_of_256(all: &Tensors) -> (Tensors, BTreeMap<String, Vec<usize>>) {
    let (mut tensors, mut shapes) = (Tensors::new(), BTreeMap::new());
    for (name, (shape, values)) in all {
        let uneven = shape.len() > 1 && values.len() % 256 == 0 && !shape.last().unwrap().is_multiple_of(256);
        let stored = if uneven { vec![values.len() / 256, 256] } else { shape.clone() };
        if uneven {
            shapes.insert(name.clone(), shape.clone());
        }
        tensors.insert(name.clone(), (stored, values.clone()));
    }
    (tensors, shapes)
}

#[tokio::test]
async fn one_file_under_every_name_makes_the_same_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");
    let all = stable_diffusion();
    let now = [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
    let norm = [&now[..], &[("norm", "group_norm")]].concat();
    let old = [("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "proj_attn")];
    let mut marked = all.clone();
    marked.insert("model.diffusion_model.out.2.comfy_quant".into(), (vec![1], vec![0.0]));
    marked.insert("first_stage_model.scaled_fp8".into(), (vec![1], vec![0.0]));

    let add = async |name: &str, file: Vec<u8>, end: &str| {
        let model = client.add_model(name, &[(format!("{name}.{end}"), file)], None).await.expect(201);
        assert_eq!(model["family"], "sd15", "{name}");
        (picture(client, name, &json!({})).await, model)
    };
    let ((plain, _), model) = add("plain", safetensors(&all), "safetensors").await;
    assert_eq!(model["warnings"], json!([]));
    for (name, file) in [
        ("attention-as-matrices", safetensors(&flat(&all, "mid.attn_1"))),
        ("todays-names", safetensors(&renamed(&all, &now))),
        ("todays-names-as-matrices", safetensors(&flat(&renamed(&all, &norm), "mid.attn_1"))),
        ("old-names", safetensors(&renamed(&all, &old))),
    ] {
        let ((same, _), model) = add(name, file, "safetensors").await;
        assert!(same == plain && model["warnings"] == json!([]), "{name}");
    }
    let ((same, made), model) = add("marked", safetensors(&marked), "safetensors").await;
    let warning = text(&model["warnings"][0]);
    assert!(warning.contains("comfy_quant") && warning.contains("scaled_fp8") && same == plain, "{warning}");
    assert!(text(&made["warnings"][0]).contains("comfy_quant"), "{made:#}");

    // stable-diffusion.cpp drops sides of 1; ComfyUI-GGUF writes the UNet alone, in rows of whole blocks.
    let ((same, _), _) = add("sd-cpp", gguf_of("", &flat(&all, ""), &BTreeMap::new()), "gguf").await;
    assert_eq!(same, plain);
    let unet: Tensors = all
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("model.diffusion_model.")?.to_owned(), tensor.clone())))
        .collect();
    let (rows, shapes) = in_rows_of_256(&unet);
    let comfy = gguf_of("sd1", &rows, &shapes);
    let answer = client.add_model("comfy", &[("unet.gguf".into(), comfy.clone())], None).await;
    answer.expect_problem(422, "file");
    assert_eq!(add_with_parts_of(client, "comfy", "unet.gguf", comfy, "plain").await.expect(201)["family"], "sd15");
    assert_eq!(picture(client, "comfy", &json!({})).await.0, plain);
    stack.ledger.audit().await;
}

/// The tiny Stable Diffusion 1.5 in folders, with some files changed, added or (as `None`) left out.
fn folder(changes: &[(&str, Option<Vec<u8>>)]) -> Files {
    let mut files: BTreeMap<String, Vec<u8>> = pipeline_files("sd15-tiny").into_iter().collect();
    for (path, content) in changes {
        match content {
            Some(content) => drop(files.insert((*path).to_owned(), content.clone())),
            None => drop(files.remove(*path)),
        }
    }
    files.into_iter().collect()
}

fn content(path: &str) -> Vec<u8> {
    pipeline_files("sd15-tiny").into_iter().find(|(there, _)| there == path).expect("a file").1
}

/// A JSON file with some fields changed.
fn config(path: &str, changes: &Value) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(&content(path)).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Some(config.to_string().into())
}

const SCHEDULER: &str = "scheduler/scheduler_config.json";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// The UNet in two shards.
fn shards() -> [Vec<u8>; 2] {
    let all = journeys::flux_files::read(&content(UNET));
    let half = all.len() / 2;
    let part = |from: usize, to: usize| -> Tensors {
        all.iter().skip(from).take(to - from).map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    };
    [safetensors(&part(0, half)), safetensors(&part(half, all.len()))]
}

#[tokio::test]
async fn a_folder_in_every_form_makes_the_same_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");
    client.add_model("plain", &folder(&[]), None).await.expect(201);
    let (plain, _) = picture(client, "plain", &json!({})).await;

    let [first, second] = shards();
    let vae = journeys::flux_files::read(&content(VAE));
    let old = |name: &str| {
        [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
            .iter()
            .fold(name.to_owned(), |name, (now, old)| {
                name.replace(&format!("attentions.0.{now}."), &format!("attentions.0.{old}."))
            })
    };
    let old: Tensors = vae.iter().map(|(name, tensor)| (old(name), tensor.clone())).collect();
    let mut marked = vae.clone();
    marked.insert("decoder.conv_in.comfy_quant".into(), (vec![1], vec![0.0]));
    type Changes<'a> = Vec<(&'a str, Option<Vec<u8>>)>;
    let same: [(&str, Changes); 7] = [
        ("half", vec![(UNET, None), ("unet/diffusion_pytorch_model.fp16.safetensors", Some(content(UNET)))]),
        ("ema", vec![(UNET, None), ("unet/diffusion_pytorch_model.non_ema.safetensors", Some(content(UNET)))]),
        (
            "shards-without-index",
            vec![
                (UNET, None),
                ("unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors", Some(first)),
                ("unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors", Some(second)),
            ],
        ),
        ("old-attention", vec![(VAE, Some(safetensors(&old)))]),
        ("marked", vec![(VAE, Some(safetensors(&marked)))]),
        ("floats", vec![(SCHEDULER, config(SCHEDULER, &json!({"steps_offset": 1.0, "num_train_timesteps": 1000.0})))]),
        ("mark", vec![("unet/config.json", Some([b"\xef\xbb\xbf", &content("unet/config.json")[..]].concat()))]),
    ];
    for (name, changes) in same {
        client.add_model(name, &folder(&changes), None).await.expect(201);
        assert_eq!(picture(client, name, &json!({})).await.0, plain, "{name}");
    }

    // As diffusers writes DPM-Solver: the same as the solver by its name.
    let dpm = String::from_utf8(config(SCHEDULER, &json!({"_class_name": "DPMSolverMultistepScheduler"})).unwrap());
    let dpm = dpm.unwrap().replacen('{', "{\"lambda_min_clipped\": -Infinity, ", 1);
    let model = client.add_model("dpm", &folder(&[(SCHEDULER, Some(dpm.into()))]), None).await.expect(201);
    assert_eq!(model["warnings"], json!([]));
    let by_name = picture(client, "plain", &json!({"scheduler": "dpmpp_2m"})).await.0;
    assert_eq!(picture(client, "dpm", &json!({})).await.0, by_name);

    // A scheduler that is not here: each that is gives its picture.
    for (name, changes) in [
        ("heun", json!({"_class_name": "HeunDiscreteScheduler"})),
        ("order", json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3})),
        ("log", json!({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"})),
    ] {
        let files = folder(&[(SCHEDULER, config(SCHEDULER, &changes))]);
        let model = client.add_model(name, &files, None).await.expect(201);
        assert!(text(&model["warnings"][0]).contains("euler_ancestral"), "{model:#}");
        let unnamed = client.post("/v1/generations", &json!({"prompt": "a fox", "model": name})).await;
        unnamed.expect_problem(422, "scheduler");
        for scheduler in ["euler", "dpmpp_2m"] {
            let request = json!({"scheduler": scheduler});
            let (seen, made) = picture(client, name, &request).await;
            assert_eq!(seen, picture(client, "plain", &request).await.0, "{name} with {scheduler}");
            let left_out =
                made["warnings"].as_array().unwrap().iter().any(|warning| text(warning).contains("log_linear"));
            assert!(left_out || (name, scheduler) != ("log", "euler"), "{made:#}");
        }
    }
    stack.ledger.audit().await;
}

/// A word that training added is its own row of the text encoder.
#[tokio::test]
async fn a_word_that_was_added_is_used() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");
    const CLIP: &str = "text_encoder/model.safetensors";
    let row = "text_model.embeddings.token_embedding.weight";
    let encoder = |sign: f32| {
        let mut all = journeys::flux_files::read(&content(CLIP));
        let (shape, values) = all.get_mut(row).expect("the embedding");
        values.extend((0..shape[1]).map(|at| sign * (at as f32 * 0.7).sin()));
        shape[0] += 1;
        assert_eq!(tensors(&content(CLIP)).by_name[row].len() + shape[1], values.len());
        Some(safetensors(&all))
    };
    let added = Some(json!({"<cat-toy>": 658}).to_string().into_bytes());
    let rows = |count: u32| config("text_encoder/config.json", &json!({"vocab_size": count}));
    for (name, sign) in [("one", 1.0), ("other", -1.0)] {
        let changes = [
            (CLIP, encoder(sign)),
            ("text_encoder/config.json", rows(659)),
            ("tokenizer/added_tokens.json", added.clone()),
        ];
        client.add_model(name, &folder(&changes), None).await.expect(201);
    }
    let prompt = json!({"prompt": "a photo of (<cat-toy>:1.3)"});
    assert_ne!(picture(client, "one", &prompt).await.0, picture(client, "other", &prompt).await.0, "the row is used");
    let plain = json!({"prompt": "a photo"});
    assert_eq!(picture(client, "one", &plain).await.0, picture(client, "other", &plain).await.0, "and nothing else");

    let short = client.add_model("short", &folder(&[("tokenizer/added_tokens.json", added)]), None).await;
    assert!(text(&short.body["errors"][0]["message"]).contains("`<cat-toy>`"), "{:#}", short.body);
    short.expect_problem(422, "file");
    stack.ledger.audit().await;
}

/// The warnings of a model, or the sentence that refuses it.
type Judged = Result<Value, String>;

/// Brings files in by every way that takes them; each has to give the same answer.
async fn judged_alike(stack: &Stack, case: &str, files: Files) -> Judged {
    let client = &stack.client;
    let root = stack.folder().join("allowed").join(case);
    for (path, bytes) in &files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let hub = Hub::start(files.clone());
    let hub_worker = stack.worker_with(
        &format!("worker-{case}"),
        "",
        &[
            ("HF_ENDPOINT", hub.url.as_str()),
            ("PYROGRAPH_IMPORT_NETWORKS", HOST),
            ("PYROGRAPH_IMPORT_DIR", stack.folder().join("allowed").to_str().unwrap()),
        ],
    );
    let model = async |name: &str| client.get(&format!("/v1/models/{name}")).await.expect(200)["warnings"].clone();
    let mut all: Vec<(&str, Judged)> = Vec::new();

    let form = client.add_model("by-form", &files, None).await;
    let refused = text(form.body.pointer("/errors/0/message").unwrap_or(&json!("")));
    all.push(("form", if form.status == 201 { Ok(form.body["warnings"].clone()) } else { Err(refused) }));

    let mut uploads = Vec::new();
    for (path, bytes) in &files {
        let begun = client.post("/v1/uploads", &json!({"bytes": bytes.len()})).await.expect(201);
        assert_eq!(client.put_upload(&begun["parts"][0], bytes.clone()).await, 200);
        uploads.push(json!({"path": path, "upload": begun["id"]}));
    }
    let mut sources = vec![
        ("path", json!({"kind": "path", "path": case})),
        ("hub", json!({"kind": "hugging_face", "repo": OPEN})),
        ("upload", json!({"kind": "upload", "files": uploads})),
    ];
    if let [(path, _)] = &files[..] {
        sources.push(("url", json!({"kind": "url", "url": format!("{}/files/{path}", hub.url)})));
    }
    for (way, source) in sources {
        let name = format!("by-{way}");
        let end = client.settled(&client.import(&name, &source).await, seconds(60)).await;
        assert_eq!(end["attempts"], 1, "{case} by {way}: {end:#}");
        all.push((
            way,
            if end["status"] == "succeeded" { Ok(model(&name).await) } else { Err(text(&end["error"]["message"])) },
        ));
        let _ = client.delete(&format!("/v1/models/{name}")).await;
    }

    let place = if let [(path, _)] = &files[..] { root.join(path) } else { root.clone() };
    let output = stack.cli(&["models", "import", place.to_str().unwrap(), "--name", "by-cli", "--json"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = serde_json::from_slice::<Value>(&output.stdout);
    all.push(("cli", if output.status.success() { Ok(shown.unwrap()["warnings"].clone()) } else { Err(message) }));
    for name in ["by-form", "by-cli"] {
        let _ = client.delete(&format!("/v1/models/{name}")).await;
    }
    drop(hub_worker);

    let (_, first) = &all[0];
    for (way, judged) in &all {
        let same = match (first, judged) {
            (Ok(first), Ok(judged)) => first == judged,
            // The command adds the field, and imports name a file after the model.
            (Err(first), Err(judged)) => {
                judged.contains(first) || judged.contains(first.trim_start_matches("The file is refused: "))
            }
            _ => false,
        };
        assert!(same, "{case} by {way}: {judged:?} instead of {first:?}");
        let words = judged.as_ref().err().map_or("", String::as_str);
        assert!(!words.contains(stack.folder().to_str().unwrap()) || *way == "cli", "{case} by {way}: {words}");
    }
    first.clone()
}

#[tokio::test]
async fn every_way_in_gives_the_same_answer() {
    let stack = Stack::start(Pace::Promised).await;
    let lone = |names: &[&str]| -> Files {
        let tensors: Tensors = names.iter().map(|name| ((*name).to_owned(), (vec![4, 4], vec![0.0; 16]))).collect();
        vec![("file.safetensors".to_owned(), safetensors(&tensors))]
    };
    let flux = ["double_blocks.0.img_attn.qkv.weight", "img_in.weight", "double_stream_modulation_img.lin.weight"];
    for (case, files, named) in [
        ("controlnet", lone(&["control_model.input_blocks.0.0.weight"]), "a ControlNet"),
        ("flux2", lone(&flux), "FLUX.2"),
        ("vae", lone(&["decoder.mid.attn_1.q.weight", "encoder.conv_in.weight"]), "an autoencoder"),
        ("llm", lone(&["model.layers.0.self_attn.q_proj.weight"]), "a language model"),
        ("no-scheduler", folder(&[(SCHEDULER, None)]), SCHEDULER),
        ("no-merges", folder(&[("tokenizer/merges.txt", None)]), "tokenizer/merges.txt"),
        ("comma", folder(&[("unet/config.json", Some(b"{\"a\": 1,}".to_vec()))]), "unet/config.json"),
        ("betas", folder(&[(SCHEDULER, config(SCHEDULER, &json!({"beta_schedule": "exp"})))]), "beta_schedule"),
    ] {
        let message = judged_alike(&stack, case, files).await.unwrap_err();
        assert!(message.contains(named), "{case}: {message}");
    }
    let heun = config(SCHEDULER, &json!({"_class_name": "HeunDiscreteScheduler"}));
    for (case, files, warned) in [
        ("good", folder(&[]), None),
        ("heun", folder(&[(SCHEDULER, heun)]), Some("HeunDiscreteScheduler")),
        ("single", vec![("one.safetensors".to_owned(), safetensors(&stable_diffusion()))], None),
        ("variants", folder(&[("unet/diffusion_pytorch_model.fp16.safetensors", Some(content(UNET)))]), None),
    ] {
        let warnings = judged_alike(&stack, case, files).await.unwrap();
        assert_eq!(warnings.as_array().unwrap().len(), usize::from(warned.is_some()), "{case}: {warnings}");
        assert!(warned.is_none_or(|warned| text(&warnings[0]).contains(warned)), "{case}: {warnings}");
    }
    stack.ledger.audit().await;
}
