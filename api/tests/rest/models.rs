//! Models are checked when they are added, have unique names, and are only deleted if nothing needs them.

use domain::generation;
use domain::job::JobKind;
use domain::model::built_in;
use reqwest::multipart::{Form, Part};
use serde_json::json;

use crate::test_server::{FLUX_MODULE, SDXL_MODULE, TestServer, checkpoint, lora, safetensors, text};

#[tokio::test]
async fn checkpoints_and_loras_come_in() {
    let server = TestServer::new().await;
    let ember = server.import("ember", None, &checkpoint()).await.expect(201);
    assert_eq!((&ember["kind"], &ember["family"], &ember["url"]), (&json!("checkpoint"), &json!("flux"), &json!(null)));
    assert_eq!(ember["defaults"]["size_multiple"], 8, "three levels of the VAE, and patches of 2 × 2");
    assert_eq!(ember["files"].as_array().unwrap().len(), 16);
    let bytes = lora(FLUX_MODULE);
    let clay = server.import("clay", Some("ember"), &[("clay.safetensors", bytes.clone())]).await.expect(201);
    assert_eq!(
        (&clay["kind"], &clay["base_model_id"], &clay["defaults"]),
        (&json!("lora"), &ember["id"], &json!(null))
    );
    assert_eq!(server.download(&clay["url"]).await, bytes);

    let by_id = server.get(&format!("/v1/models/{}", text(&clay["id"]))).await.expect(200);
    assert_eq!(by_id["name"], "clay");
    let names = |answer: serde_json::Value| {
        answer["items"].as_array().unwrap().iter().map(|model| text(&model["name"])).collect::<Vec<_>>()
    };
    assert_eq!(names(server.get("/v1/models").await.expect(200)), ["clay", "ember"]);
    assert_eq!(names(server.get("/v1/models?kind=checkpoint").await.expect(200)), ["ember"]);
    server.get("/v1/models?kind=vae").await.refuses(422, "kind");

    server.delete("/v1/models/clay").await.expect(204);
    server.get("/v1/models/clay").await.refuses(404, "");
    assert_eq!(server.objects(), 16);
    server.import("clay", None, &[("clay.safetensors", bytes)]).await.expect(201);
}

#[tokio::test]
async fn what_is_no_model_leaves_nothing_behind() {
    let server = TestServer::new().await;
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let flux = || lora(FLUX_MODULE);
    for (what, files) in [
        ("a pickle", vec![("x.safetensors", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08builtins".to_vec())]),
        ("a pickle by name and content", vec![("x.bin", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08".to_vec())]),
        ("a web page", vec![("x.safetensors", b"<!DOCTYPE html><html></html>".to_vec())]),
        ("a picture beside", vec![("x.safetensors", flux()), ("preview.png", b"\x89PNG\r\n\x1a\n".to_vec())]),
        ("a torch zip", vec![("x.safetensors", b"PK\x03\x04\x14\0\0\0\0\0archive/data.pkl".to_vec())]),
        ("a header of 16 EiB", vec![("x.safetensors", u64::MAX.to_le_bytes().to_vec())]),
        ("a broken header", vec![("x.safetensors", header("{\"a\":"))]),
        ("data that is missing", vec![("x.safetensors", flux()[..200].to_vec())]),
        ("no pair of tensors", vec![("x.safetensors", safetensors("a", "b"))]),
        ("a family that nobody knows", vec![("x.safetensors", lora("something.else"))]),
        ("nothing", vec![]),
        ("two LoRAs", vec![("x.safetensors", flux()), ("y.safetensors", flux())]),
        ("a path that climbs", vec![("../x.safetensors", flux())]),
        ("the same path twice", vec![("x.safetensors", flux()), ("x.safetensors", flux())]),
        ("half a checkpoint", checkpoint().into_iter().take(5).collect()),
        ("another pipeline", vec![("model_index.json", br#"{"_class_name": "StableDiffusionPipeline"}"#.to_vec())]),
        ("JSON that is none", vec![("model_index.json", b"{".to_vec())]),
    ] {
        let answer = server.import("bad", None, &files).await;
        assert!(matches!(answer.status, 415 | 422), "{what}: {answer:?}");
        answer.refuses(answer.status, "file");
    }
    server.import("ember", None, &checkpoint()).await.expect(201);
    server.import("Bad Name", None, &[("x.safetensors", flux())]).await.refuses(422, "name");
    server.import("ember", None, &[("x.safetensors", flux())]).await.refuses(409, "name");
    server.import("x", Some("nobody"), &[("x.safetensors", flux())]).await.refuses(404, "base");
    server.import("x", Some("ember"), &[("x.safetensors", lora(SDXL_MODULE))]).await.refuses(422, "base");
    let nameless = Form::new().part("file", Part::bytes(flux()).file_name("x.safetensors"));
    server.post_form("/v1/models", nameless).await.refuses(422, "name");
    let unknown = Form::new().text("name", "x").text("colour", "red");
    server.post_form("/v1/models", unknown).await.refuses(422, "colour");
    assert_eq!((server.count("models").await, server.objects()), (1, 16));
}

#[tokio::test]
async fn the_built_in_checkpoint_stays() {
    let server = TestServer::new().await;
    let files: Vec<_> = checkpoint().into_iter().map(|(path, bytes)| (path.to_owned(), bytes.into())).collect();
    let (pool, storage) = (&server.pools.lease, &server.storage);
    let first = built_in::register(pool, storage, "ember", &files).await.unwrap();
    assert_eq!(built_in::register(pool, storage, "ember", &files).await.unwrap(), first, "once is enough");
    assert_eq!(server.objects(), 16);
    let shown = server.get("/v1/models/ember").await.expect(200);
    assert_eq!(shown["built_in"], true);
    server.delete("/v1/models/ember").await.refuses(409, "");

    // Files that were lost are stored again.
    for file in storage.list(&format!("models/{first}")).await.unwrap().into_iter().take(3) {
        storage.delete(&file.0).await.unwrap();
    }
    assert_eq!(server.objects(), 13);
    let why = server.get("/v1/models/ember/inspect").await.expect(404)["detail"].to_string();
    assert!(why.contains("There is no stored file `") && !why.contains(&first.to_string()), "{why}");
    assert_eq!(built_in::register(pool, storage, "ember", &files).await.unwrap(), first);
    for (file, (path, bytes)) in shown["files"].as_array().unwrap().iter().zip(&files) {
        assert_eq!(file["path"], *path);
        assert_eq!(server.download(&file["url"]).await, *bytes);
    }

    // A newer build has other weights under the same name.
    let mut newer = files;
    newer[1].1 = br#"{"num_inference_steps": 8, "width": 64, "height": 64}"#.to_vec().into();
    let second = built_in::register(pool, storage, "ember", &newer).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(server.get("/v1/models/ember").await.expect(200)["defaults"]["num_inference_steps"], 8);
}

#[tokio::test]
async fn warnings_of_a_model_are_shown_wherever_it_is() {
    let server = TestServer::with_checkpoint().await;
    server.import("clay", Some("ember"), &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    for model in ["ember", "clay"] {
        sqlx::query("UPDATE models SET warnings = jsonb_build_array('a guess about ' || name) WHERE name = $1")
            .bind(model)
            .execute(&server.pools.lease)
            .await
            .unwrap();
    }
    let shown = |answer: &serde_json::Value| answer["warnings"].clone();
    for model in ["ember", "clay"] {
        let wanted = json!([format!("a guess about {model}")]);
        assert_eq!(shown(&server.get(&format!("/v1/models/{model}")).await.expect(200)), wanted);
        let listed = server.get("/v1/models").await.expect(200);
        assert!(listed["items"].as_array().unwrap().iter().any(|model| shown(model) == wanted), "{listed}");
        // An inspection reads the files again.
        let inspected = server.get(&format!("/v1/models/{model}/inspect")).await.expect(200);
        assert_eq!(inspected["warnings"][0], wanted[0], "{inspected}");
    }
    let body = json!({"prompt": "a fox", "loras": [{"model": "clay"}]});
    server.post("/v1/generations", &body).await.expect(202);
    let claim = server.claim(JobKind::Generation).await;
    let work = generation::load_work(&server.pools.lease, &claim).await.unwrap();
    let warnings = work.warnings(vec!["clay: a guess about clay".to_owned(), "of the engine".to_owned()]);
    assert_eq!(warnings, ["ember: a guess about ember", "clay: a guess about clay", "of the engine"]);
}

/// The files of an adapter as PEFT saves it: rank 2, alpha as given.
fn peft(alpha: f64) -> [(&'static str, Vec<u8>); 2] {
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": ["to_q"]});
    [
        ("adapter_model.safetensors", lora("base_model.model.transformer_blocks.0.attn.to_q")),
        ("adapter_config.json", config.to_string().into_bytes()),
    ]
}

#[tokio::test]
async fn a_lora_may_bring_the_config_that_states_its_alpha() {
    let server = TestServer::with_checkpoint().await;
    let [weights, config] = peft(16.0);
    let alone = server.import("alone", None, std::slice::from_ref(&weights)).await.expect(201);
    assert_eq!(alone["warnings"], json!(["alpha is not in the file; taken as the rank"]));
    let whole = server.import("whole", Some("ember"), &[config.clone(), weights.clone()]).await.expect(201);
    assert_eq!((&whole["kind"], &whole["warnings"]), (&json!("lora"), &json!([])));
    assert_eq!(whole["files"].as_array().unwrap().len(), 2);
    assert_ne!(whole["sha256"], alone["sha256"], "the alpha is a part of it");
    assert_eq!(server.download(&whole["url"]).await, weights.1);
    let about = server.get("/v1/models/whole/inspect").await.expect(200);
    assert_eq!((&about["alpha_source"], &about["warnings"]), (&json!("adapter_config.json"), &json!([])));
    for (what, files) in [
        ("a config that is not JSON", vec![weights.clone(), (config.0, b"{".to_vec())]),
        ("a config of 2 MiB", vec![weights.clone(), (config.0, format!("\"{}\"", "x".repeat(2 << 20)).into_bytes())]),
        ("a config alone", vec![config.clone()]),
        ("another file", vec![weights.clone(), ("notes.txt", b"".to_vec())]),
        ("one file more", vec![weights.clone(), config.clone(), ("README.md", b"".to_vec())]),
    ] {
        let answer = server.import("bad", None, &files).await;
        assert!(matches!(answer.status, 413 | 422), "{what}: {answer:?}");
        answer.refuses(answer.status, "file");
    }
    server.delete("/v1/models/whole").await.expect(204);
}

#[tokio::test]
async fn an_adapter_that_could_not_be_loaded_is_refused_by_the_name_of_its_module() {
    let server = TestServer::new().await;
    let header = json!({
        format!("{FLUX_MODULE}.lora_A.weight"): {"dtype": "F32", "shape": [1, 16], "data_offsets": [0, 64]},
    })
    .to_string();
    let half = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
    let answer = server.import("half", None, &[("half.safetensors", half)]).await;
    let answered = format!("{answer:?}");
    assert!(answered.contains(FLUX_MODULE) && answered.contains("missing"), "{answered}");
    answer.refuses(422, "file");
    assert_eq!((server.count("models").await, server.objects()), (0, 0));
}

#[tokio::test]
async fn a_lora_without_effect_is_a_warning_from_the_import_on() {
    let server = TestServer::with_checkpoint().await;
    let idle = json!(["alpha is 0 everywhere, so it changes nothing"]);
    // A LoRA of two modules with these alphas as tensors of f16, or with alpha in the header.
    let file = |alphas: Option<[u16; 2]>, header: serde_json::Value| {
        let mut entries = json!({"__metadata__": header});
        let mut data = Vec::new();
        let mut put = |name: String, dtype: &str, shape: &[usize], bytes: &[u8]| {
            let offsets = [data.len(), data.len() + bytes.len()];
            entries[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
            data.extend_from_slice(bytes);
        };
        for (index, layer) in ["to_q", "to_k"].into_iter().enumerate() {
            let module = format!("transformer.transformer_blocks.0.attn.{layer}");
            put(format!("{module}.lora_A.weight"), "F32", &[2, 4], &[1; 32]);
            put(format!("{module}.lora_B.weight"), "F32", &[4, 2], &[1; 32]);
            if let Some(alphas) = alphas {
                put(format!("{module}.alpha"), "F16", &[], &alphas[index].to_le_bytes());
            }
        }
        let header = entries.to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
    };
    for (name, bytes, warnings) in [
        ("zeros", file(Some([0, 0]), json!({})), &idle),
        ("header", file(None, json!({"ss_network_alpha": "0"})), &idle),
        ("half", file(Some([0, 0x3c00]), json!({})), &json!([])),
        ("ones", file(Some([0x3c00, 0x3c00]), json!({"ss_network_alpha": "0"})), &json!([])),
    ] {
        let model = server.import(name, None, &[("x.safetensors", bytes)]).await.expect(201);
        assert_eq!(&model["warnings"], warnings, "{name}");
        let inspection = server.get(&format!("/v1/models/{name}/inspect")).await.expect(200);
        assert_eq!(&inspection["warnings"], warnings, "{name}");
    }
}
