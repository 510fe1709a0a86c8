//! FLUX.1 in the files that people have: the denoiser in one file, its text encoders and autoencoder in others, in the
//! same one, or in another model of the library. The picture is the same in every form.

use journeys::client::{Answer, Client, text};
use journeys::flux_files::{PARTS, Tensors, alone, gguf, original, read, safetensors, small};
use journeys::model::{golden, tiny_files};
use journeys::picture::pixels;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

/// Sends a form with texts and files: name of the part, name of the file, bytes.
async fn add(client: &Client, texts: &[(&str, &str)], files: &[(&str, &str, &[u8])]) -> Answer {
    let mut form = Form::new();
    for (name, text) in texts {
        form = form.text((*name).to_owned(), (*text).to_owned());
    }
    for (name, file, bytes) in files {
        form = form.part((*name).to_owned(), Part::bytes(bytes.to_vec()).file_name((*file).to_owned()));
    }
    client.send(client.request(Method::POST, "/v1/models").multipart(form)).await
}

async fn picture(client: &Client, model: &str, request: &Value) -> image::RgbImage {
    let mut request = request.clone();
    request["model"] = model.into();
    let made = client.succeeded(&client.generate(&request).await, seconds(120)).await;
    pixels(&client.artifacts(&made).await[0])
}

/// The transformer of `tiny`, from all its shards.
fn transformer() -> Tensors {
    let files = tiny_files().into_iter();
    let shards = files.filter(|(path, _)| path.starts_with("transformer/") && path.ends_with(".safetensors"));
    shards.flat_map(|(_, bytes)| read(&bytes)).collect()
}

#[tokio::test]
async fn a_denoiser_alone_borrows_its_parts_and_makes_the_same_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let denoiser = original(&transformer());
    let (plain, packed) = (safetensors(&denoiser), gguf(&denoiser));

    let refused = add(client, &[("name", "x")], &[("file", "flux1-dev.gguf", &packed)]).await;
    let told = refused.body.to_string();
    for word in ["flux1-dev.gguf", "text_encoder_2", "--vae FILE", "parts_of"] {
        assert!(told.contains(word), "{told}");
    }
    refused.expect_problem(422, "file");

    let objects = stack.site.objects();
    let bfl = add(client, &[("name", "bfl"), ("parts_of", "tiny")], &[("file", "flux1.safetensors", &plain)]).await;
    let bfl = bfl.expect(201);
    let its_own = client.get("/v1/models/tiny").await.expect(200);
    assert_eq!((&bfl["family"], &bfl["defaults"]), (&json!("flux"), &its_own["defaults"]));
    assert_eq!(stack.site.objects(), objects + 1, "borrowed files are stored once");
    // T5 as llama.cpp stores it, beside its tokenizer; a language model in such a file is refused.
    let t5 = std::fs::read(golden("gguf/t5.gguf")).unwrap();
    let tokenizer: Vec<_> = tiny_files().into_iter().filter(|(path, _)| path.starts_with("tokenizer_2/")).collect();
    let mut files = vec![("file", "flux1.gguf", &packed[..]), ("text_encoder_2", "t5-v1_1-xxl-encoder-F32.gguf", &t5)];
    files.extend(tokenizer.iter().map(|(path, bytes)| ("file", &path[..], &bytes[..])));
    let model = add(client, &[("name", "llama"), ("parts_of", "tiny")], &files).await.expect(201);
    let paths: Vec<String> = model["files"].as_array().unwrap().iter().map(|file| text(&file["path"])).collect();
    assert!(paths.contains(&"text_encoder_2.gguf".to_owned()), "{paths:?}");
    assert!(!paths.iter().any(|path| path.starts_with("text_encoder_2/")), "{paths:?}");
    let language_model = gguf(&Tensors::from([("blk.0.attn_q.weight".to_owned(), (vec![2, 2], vec![0.0; 4]))]));
    files[1].2 = &language_model;
    add(client, &[("name", "x"), ("parts_of", "tiny")], &files).await.expect_problem(422, "text_encoder_2");
    // Imported by a worker, from a folder that the operator allowed.
    let folder = stack.folder().join("allowed");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("flux1-Q.gguf"), &packed).unwrap();
    let _worker = stack.worker_with("worker", "", &[("PYROGRAPH_IMPORT_DIR", folder.to_str().unwrap())]);
    let request = json!({"name": "packed", "source": {"kind": "path", "path": "flux1-Q.gguf"}, "parts_of": "bfl"});
    let import = client.post("/v1/models", &request).await.expect(202);
    assert_eq!(import["parts_of_model_id"], bfl["id"]);
    client.succeeded(&import, seconds(60)).await;
    let paths: Vec<String> = client.get("/v1/models/packed").await.expect(200)["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| text(&file["path"]))
        .collect();
    assert!(paths.contains(&"packed.gguf".to_owned()) && paths.contains(&"vae/config.json".to_owned()), "{paths:?}");

    let request = json!({"prompt": "a red owl", "seed": 7, "num_inference_steps": 4, "width": 64, "height": 48});
    let own = picture(client, "tiny", &request).await;
    assert_eq!(picture(client, "bfl", &request).await, own);
    assert_eq!(picture(client, "packed", &request).await, own);
    assert_eq!(picture(client, "llama", &request).await, own);
    // When the model that shared the files is deleted, the shared files stay.
    client.delete("/v1/models/bfl").await.expect(204);
    let other = json!({"prompt": "a red owl", "seed": 8, "num_inference_steps": 1, "width": 64, "height": 64});
    assert_eq!(picture(client, "packed", &other).await, picture(client, "tiny", &other).await);
    stack.ledger.audit().await;
}

#[tokio::test]
async fn parts_in_files_of_their_own_and_all_in_one() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let all = small();
    let parts = PARTS.map(|(part, prefix)| (part, safetensors(&alone(&all, prefix))));
    let [(_, transformer), (_, clip), (_, t5), (_, vae)] = &parts;

    let whole = safetensors(&all);
    let one = add(client, &[("name", "one")], &[("file", "comfy.safetensors", &whole)]).await.expect(201);
    assert_eq!((&one["family"], &one["defaults"]["num_inference_steps"]), (&json!("flux"), &json!(4)));
    let apart = [
        ("vae", "ae.safetensors", &vae[..]),
        ("file", "flux1-dev.safetensors", transformer),
        ("text_encoder", "clip_l.safetensors", clip),
        ("text_encoder_2", "t5xxl_fp16.safetensors", t5),
    ];
    let model = add(client, &[("name", "separate")], &apart).await.expect(201);
    let mut paths: Vec<String> = model["files"].as_array().unwrap().iter().map(|file| text(&file["path"])).collect();
    paths.sort();
    assert_eq!(
        paths,
        ["flux1-dev.safetensors", "text_encoder.safetensors", "text_encoder_2.safetensors", "vae.safetensors"]
    );

    // From the workers' disk: a quantised denoiser, one part given, the others from the file that contains all.
    let folder = stack.folder().join("allowed");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("dev.gguf"), gguf(&alone(&all, PARTS[0].1))).unwrap();
    std::fs::write(folder.join("ae.safetensors"), vae).unwrap();
    let _worker = stack.worker_with("worker", "", &[("PYROGRAPH_IMPORT_DIR", folder.to_str().unwrap())]);
    let path = |path: &str| json!({"kind": "path", "path": path});
    let request = json!({"name": "mixed", "source": path("dev.gguf"), "parts": {"vae": path("ae.safetensors")},
                         "parts_of": "one"});
    let import = client.succeeded(&client.post("/v1/models", &request).await.expect(202), seconds(60)).await;
    assert_eq!(import["parts"], json!({"vae": path("ae.safetensors")}));
    // With the command line, from this machine.
    let file = |name: &str, bytes: &[u8]| {
        let path = stack.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (main, encoder) = (file("mine.safetensors", transformer), file("clip_l.safetensors", clip));
    let command = ["models", "import", &main, "--name", "mine", "--text-encoder", &encoder, "--like", "one"];
    assert_eq!(stack.cli_json(&command)["family"], "flux");

    let request = json!({"prompt": "a fox", "seed": 3, "num_inference_steps": 2, "width": 64, "height": 64});
    let fox = picture(client, "one", &request).await;
    for model in ["separate", "mixed", "mine"] {
        assert_eq!(picture(client, model, &request).await, fox, "{model}");
    }
    let mut owl = request.clone();
    owl["prompt"] = "an owl".into();
    assert_ne!(picture(client, "one", &owl).await, fox, "both vocabularies are read");

    // Parts that do not belong together leave nothing behind.
    let objects = stack.site.objects();
    let named = |field: &'static str, value: &'static str| [("name", "x"), (field, value)];
    let main = ("file", "dev.safetensors", &transformer[..]);
    add(client, &[("name", "x")], &[main, ("vae", "t5.safetensors", t5)]).await.expect_problem(422, "vae");
    add(client, &named("parts_of", "nothing"), &[main]).await.expect_problem(404, "parts_of");
    add(client, &named("parts_of", "one"), &[("file", "ae.safetensors", vae)]).await.expect_problem(422, "file");
    let cut = gguf(&alone(&all, PARTS[0].1));
    add(client, &named("parts_of", "one"), &[("file", "dev.gguf", &cut[..cut.len() - 64])])
        .await
        .expect_problem(422, "file");
    let two = json!({"kind": "hugging_face", "repo": "a/b", "files": ["x.safetensors", "y.safetensors"]});
    let request = json!({"name": "x", "source": path("dev.gguf"), "parts": {"vae": two}});
    client.post("/v1/models", &request).await.expect_problem(422, "parts.vae");
    let request = json!({"name": "x", "source": path("dev.gguf"), "parts": {"vae": path("../ae.safetensors")}});
    client.post("/v1/models", &request).await.expect_problem(422, "parts.vae.path");
    let request = json!({"name": "vae", "source": path("dev.gguf"), "parts": {"vae": path("ae.safetensors")}});
    client.post("/v1/models", &request).await.expect_problem(422, "name");
    let incomplete = json!({"name": "x", "source": path("dev.gguf"), "parts": {"vae": path("ae.safetensors")}});
    let end = client.settled(&client.post("/v1/models", &incomplete).await.expect(202), seconds(60)).await;
    assert_eq!((&end["status"], &end["error"]["class"]), (&json!("failed"), &json!("invalid_input")), "{end:#}");
    assert!(text(&end["error"]["message"]).contains("`text_encoder`, `text_encoder_2`"), "{end:#}");
    journeys::wait::until(seconds(10), "nothing stays", || async { (stack.site.objects() == objects).then_some(()) })
        .await;
    stack.ledger.audit().await;
}
