//! Where models come from: a repository on the Hub, a URL, a folder. The model is complete even if a connection breaks
//! or a process is killed on the way; a refused source is reported, leaves nothing behind, and gives no access to the
//! network around the worker.

use std::path::{Path, PathBuf};

use journeys::client::text;
use journeys::hub::{COMMIT, GATED, HOST, Hub, OPEN, SIGNATURE, TOKEN, lora, repository};
use journeys::picture::sha256;
use journeys::process::Process;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

const UNET: &str = "transformer/diffusion_pytorch_model.safetensors";

fn worker(stack: &Stack, hub: &Hub, more: &[(&str, &str)]) -> Process {
    let environment = [&[("HF_ENDPOINT", hub.url.as_str()), ("PYROGRAPH_IMPORT_NETWORKS", HOST)], more].concat();
    stack.worker_with("worker", "", &environment)
}

fn hub_repository(repo: &str) -> Value {
    json!({"kind": "hugging_face", "repo": repo})
}

/// Expects that the import fails at once with this message.
async fn refused(stack: &Stack, name: &str, source: &Value, says: &str) {
    let end = stack.client.settled(&stack.client.import(name, source).await, seconds(60)).await;
    assert_eq!(
        (&end["status"], &end["error"]["class"]),
        (&json!("failed"), &json!("invalid_input")),
        "{source}: {end:#}"
    );
    assert!(text(&end["error"]["message"]).contains(says), "{source}: {end:#}");
    assert_eq!(end["attempts"], 1, "what may not be had is not asked for again: {end:#}");
    assert_eq!(end["output_model"], Value::Null);
    stack.client.get(&format!("/v1/models/{name}")).await.expect(404);
}

#[tokio::test]
async fn a_repository_becomes_a_model_however_often_it_is_cut() {
    let stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_LOG", "debug")]).await;
    let hub = Hub::start(repository());
    let _worker = worker(&stack, &hub, &[("HF_TOKEN", TOKEN)]);
    hub.cut([10_000, 400_000, 70_000, 0, 1, 2_000_000, 3]);

    let import = stack.client.import("theirs", &hub_repository(GATED)).await;
    let end = stack.client.succeeded(&import, seconds(120)).await;
    assert_eq!(
        (&end["attempts"], &end["source_commit"], &end["output_model"]["name"]),
        (&json!(1), &json!(COMMIT), &json!("theirs"))
    );
    let resumed = hub.blobs().iter().filter(|seen| seen.range.is_some()).count();
    assert!(resumed >= 4, "cut connections go on where they were: {:#?}", hub.blobs());
    assert!(hub.blobs().iter().all(|seen| !seen.token), "the token stays with the Hub");
    assert!(hub.seen().iter().any(|seen| seen.token));
    for unwanted in [".bin", "fp16", "safety_checker", ".gitattributes"] {
        assert!(!hub.seen().iter().any(|seen| seen.path.contains(unwanted)), "{unwanted} was asked for");
    }

    let model = stack.client.get("/v1/models/theirs").await.expect(200);
    assert_eq!(
        (&model["kind"], &model["family"], &model["license"]),
        (&json!("checkpoint"), &json!("flux"), &json!("Do as you like.\n"))
    );
    assert_eq!(
        model["source"],
        json!({"kind": "hugging_face", "repo": GATED, "revision": "main", "files": null, "variant": null})
    );
    assert_eq!(model["source_commit"], COMMIT);
    let files = model["files"].as_array().unwrap();
    for file in files {
        assert_eq!(text(&file["sha256"]), sha256(&hub.bytes(&text(&file["path"]))), "{file:#}");
    }
    assert_eq!(end["progress"]["step"], json!(files.len()));
    assert_eq!(end["progress"]["bytes"], model["bytes"]);
    let found = stack.client.get("/v1/models?kind=checkpoint&family=flux").await.expect(200);
    assert!(found["items"].as_array().unwrap().iter().any(|model| model["name"] == "theirs"));
    assert_eq!(stack.client.get("/v1/models?family=sdxl").await.expect(200)["items"], json!([]));

    let request = json!({"prompt": "an owl", "model": "theirs", "num_inference_steps": 1, "seed": 1});
    stack.client.succeeded(&stack.client.generate(&request).await, seconds(120)).await;

    // The same files again under another name: recognised by their hashes, and stored once.
    let (objects, blobs) = (stack.site.objects(), hub.blobs().len());
    stack.client.succeeded(&stack.client.import("again", &hub_repository(OPEN)).await, seconds(60)).await;
    objects_become(&stack, objects).await;
    assert_eq!(hub.blobs().len(), blobs);
    assert_eq!(stack.client.get("/v1/models/again").await.expect(200)["sha256"], model["sha256"]);
    // When the first model is deleted, the files stay for the other.
    stack.client.delete("/v1/models/theirs").await.expect(204);
    assert_eq!(stack.site.objects(), objects);
    let request = json!({"prompt": "an owl", "model": "again", "num_inference_steps": 1, "seed": 1});
    stack.client.succeeded(&stack.client.generate(&request).await, seconds(120)).await;
    let objects = stack.site.objects();
    stack.client.delete("/v1/models/again").await.expect(204);
    assert_eq!(stack.site.objects(), objects - files.len() + shared_with_others(&stack, files).await);

    for secret in [TOKEN, SIGNATURE] {
        assert!(!stack.logs().contains(secret), "a secret is in a log");
        assert!(!database(&stack).await.contains(secret), "a secret is in a row");
    }
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Bytes of the largest file that a worker has begun.
fn largest_part(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let size = |path: PathBuf| match path.is_dir() {
        true => largest_part(&path),
        false if path.extension().is_some_and(|end| end == "part") => path.metadata().map_or(0, |about| about.len()),
        false => 0,
    };
    entries.map(size).max().unwrap_or(0)
}

/// Unused objects are deleted shortly after the commit.
async fn objects_become(stack: &Stack, count: usize) {
    until(seconds(10), &format!("{count} objects"), || async { (stack.site.objects() == count).then_some(()) }).await;
}

/// How many of these files belong to an existing model too.
async fn shared_with_others(stack: &Stack, files: &[Value]) -> usize {
    let hashes: Vec<String> = files.iter().map(|file| text(&file["sha256"])).collect();
    let shared: i64 = sqlx::query_scalar(
        "select count(*) from unnest($1::text[]) h where exists (select 1 from models m, jsonb_array_elements(m.files) f
         where m.deleted_at is null and f->>'sha256' = h)",
    )
    .bind(hashes)
    .fetch_one(stack.ledger.pool())
    .await
    .unwrap();
    shared as usize
}

/// Everything that rows contain about imports.
async fn database(stack: &Stack) -> String {
    let rows: Vec<String> = sqlx::query_scalar(
        "select i::text from imports i union all select m::text from models m
         union all select e::text from job_events e union all select a::text from attempts a",
    )
    .fetch_all(stack.ledger.pool())
    .await
    .unwrap();
    rows.concat()
}

#[tokio::test]
async fn an_import_goes_on_where_its_killed_worker_stopped() {
    let stack = Stack::start(Pace::Quick).await;
    let hub = Hub::start(repository());
    let mut first = worker(&stack, &hub, &[]);
    hub.stall(Some(4_000_000));
    let import = stack.client.import("theirs", &hub_repository(OPEN)).await;
    // Only the largest file gets that far.
    let home = stack.folder().join("worker");
    until(seconds(60), "the answer stands still", || async { (largest_part(&home) >= 4_000_000).then_some(()) }).await;
    let finished: Vec<String> =
        hub.blobs().into_iter().map(|seen| seen.path).filter(|path| !path.ends_with(UNET)).collect();
    first.kill();
    hub.stall(None);
    let before = hub.seen().len();
    let _second = worker(&stack, &hub, &[]);
    let end = stack.client.succeeded(&import, seconds(60)).await;
    assert_eq!(end["attempts"], 2, "{end:#}");
    let after: Vec<_> = hub.seen().split_off(before).into_iter().filter(|seen| seen.cdn).collect();
    let unet = after.iter().find(|seen| seen.path.ends_with(UNET)).expect("it was not whole");
    let from: u64 = unet
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .expect("a range");
    assert!(from > 2_000_000, "it went on within the file: {unet:?}");
    assert!(
        !finished.is_empty() && !after.iter().any(|seen| finished.contains(&seen.path)),
        "whole files are not asked for again"
    );
    let model = stack.client.get("/v1/models/theirs").await.expect(200);
    let unet = model["files"].as_array().unwrap().iter().find(|file| file["path"] == UNET).unwrap();
    assert_eq!(text(&unet["sha256"]), sha256(&hub.bytes(UNET)));
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

#[tokio::test]
async fn what_may_not_be_had_is_told_before_anything_is_downloaded() {
    let stack = Stack::start(Pace::Promised).await;
    let hub = Hub::start(repository());
    let _worker = worker(&stack, &hub, &[]);
    let before = stack.site.objects();
    refused(&stack, "a", &hub_repository(GATED), "is gated").await;
    refused(&stack, "b", &hub_repository("nobody/nothing"), "no repository").await;
    refused(&stack, "c", &json!({"kind": "hugging_face", "repo": OPEN, "revision": "v9"}), "no revision").await;
    refused(&stack, "d", &json!({"kind": "hugging_face", "repo": OPEN, "variant": "bf16"}), "bf16").await;
    refused(&stack, "e", &json!({"kind": "hugging_face", "repo": OPEN, "files": ["x.safetensors"]}), "no file").await;
    refused(&stack, "f", &json!({"kind": "path", "path": "models"}), "allowed no folder").await;
    assert_eq!(hub.blobs().len(), 0, "{:#?}", hub.blobs());
    assert_eq!(stack.site.objects(), before);

    // A malformed request does not even become a job.
    for (source, field) in [
        (json!({"kind": "url", "url": "ftp://example.com/x"}), "source.url"),
        (json!({"kind": "url", "url": "https://user:password@example.com/x"}), "source.url"),
        (json!({"kind": "url", "url": "https://example.com/x", "sha256": "abc"}), "source.sha256"),
        (json!({"kind": "hugging_face", "repo": "../etc"}), "source.repo"),
        (json!({"kind": "hugging_face", "repo": "a/b", "revision": ".."}), "source.revision"),
        (json!({"kind": "path", "path": "/etc/passwd"}), "source.path"),
        (json!({"kind": "gopher", "url": "x"}), "source"),
        (json!({"kind": "url", "url": "https://a.b/c", "headers": {}}), "source"),
    ] {
        stack.client.post("/v1/models", &json!({"name": "x", "source": source})).await.expect_problem(422, field);
    }
    stack
        .client
        .post("/v1/models", &json!({"name": "tiny", "source": hub_repository(OPEN)}))
        .await
        .expect_problem(409, "name");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

#[tokio::test]
async fn a_url_leads_to_a_model_and_never_inside() {
    let stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_LOG", "debug")]).await;
    let good = lora(100);
    let hub = Hub::start([
        ("clay.safetensors".to_owned(), good.clone()),
        ("pickle.safetensors".to_owned(), b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08builtins".repeat(100)),
        ("page.safetensors".to_owned(), b"<html>Please log in".repeat(100)),
    ]);
    let worker = worker(&stack, &hub, &[]);
    let before = stack.site.objects();
    let at = |path: &str| format!("{}{path}", hub.url);
    let url = |url: &str| json!({"kind": "url", "url": url});

    // This installation's own storage listens on 127.0.0.1, and so may any other service.
    let inside = stack.site.storage().endpoint;
    for (place, says) in [
        (format!("{inside}/x.safetensors"), "https"),
        (at(&format!("/to?url={inside}/x.safetensors")), "https"),
        (at("/to?url=https://127.0.0.1:8443/x"), "public internet"),
        (at("/to?url=https://2130706433/x"), "public internet"),
        (at("/to?url=https://[::ffff:169.254.169.254]/latest/meta-data"), "public internet"),
        (at("/to?url=file:///etc/passwd"), "no host"),
        (at("/files/nothing.safetensors"), "404"),
        (at("/files/pickle.safetensors"), "pickle"),
        (at("/files/page.safetensors"), "a web page"),
    ] {
        refused(&stack, "bad", &url(&place), says).await;
    }
    let wrong = json!({"kind": "url", "url": at("/files/clay.safetensors"), "sha256": "0".repeat(64)});
    refused(&stack, "bad", &wrong, &sha256(&good)).await;
    objects_become(&stack, before).await;

    // Interrupted twice, signed, and redirected to an allowed address.
    hub.cut([30_000, 10]);
    let signed = at(&format!("/files/clay.safetensors?Signature={SIGNATURE}"));
    let redirected = at(&format!("/to?url={}", signed.replace('?', "%3F").replace('&', "%26")));
    for (name, place) in [("clay", &signed), ("clay2", &redirected)] {
        let source = json!({"kind": "url", "url": place, "sha256": sha256(&good)});
        let end = stack.client.succeeded(&stack.client.import(name, &source).await, seconds(60)).await;
        assert!(!end.to_string().contains(SIGNATURE), "{end:#}");
    }
    let model = stack.client.get("/v1/models/clay").await.expect(200);
    assert_eq!((&model["kind"], text(&model["sha256"])), (&json!("lora"), sha256(&good)));
    assert_eq!(text(&model["source"]["url"]), at("/files/clay.safetensors"));
    objects_become(&stack, before + 1).await;

    // Canceled in the middle of the second file.
    hub.stall(Some(20_000));
    stack.client.delete("/v1/models/clay").await.expect(204);
    stack.client.delete("/v1/models/clay2").await.expect(204);
    let asked = || hub.seen().iter().filter(|seen| seen.path == "/files/clay.safetensors").count();
    let before_that = asked();
    let import = stack.client.import("clay", &url(&signed)).await;
    stack.client.post("/v1/models", &json!({"name": "clay", "source": url(&signed)})).await.expect_problem(409, "name");
    until(seconds(30), "bytes arrive", || async {
        let now = stack.client.get(&text(&import["urls"]["self"])).await.expect(200);
        (now["status"] == "running" && asked() > before_that).then_some(())
    })
    .await;
    stack.client.post(&text(&import["urls"]["cancel"]), &json!({})).await.expect(200);
    let end = stack.client.settled(&import, seconds(30)).await;
    assert_eq!(end["status"], "canceled", "{end:#}");
    objects_become(&stack, before).await;
    drop(worker);
    assert!(!stack.logs().contains(SIGNATURE) && !database(&stack).await.contains(SIGNATURE));
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Parts in any order, and after an interruption only the missing ones.
#[tokio::test]
async fn a_large_file_is_uploaded_in_parts_and_gone_on_with() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");
    let before = stack.site.objects();
    let file = lora(65 * 1024);
    let begun = client.post("/v1/uploads", &json!({"bytes": file.len()})).await.expect(201);
    let path = format!("/v1/uploads/{}", text(&begun["id"]));
    let source = json!({"kind": "upload", "files": [{"path": "large.safetensors", "upload": begun["id"]}]});
    let (first, second) = file.split_at(begun["parts"][0]["bytes"].as_u64().unwrap() as usize);
    assert_eq!(begun["parts"].as_array().unwrap().len(), 2);
    assert_eq!(client.put_upload(&begun["parts"][1], second.to_vec()).await, 200);

    // As if it had been interrupted here: another request lists the missing parts.
    let now = client.get(&path).await.expect(200);
    assert_eq!((now["parts"][0]["url"].is_string(), &now["parts"][1]["url"]), (true, &Value::Null));
    client.post("/v1/models", &json!({"name": "large", "source": source})).await.expect(409);
    assert_eq!(client.put_upload(&now["parts"][0], first.to_vec()).await, 200);

    let end = client.succeeded(&client.import("large", &source).await, seconds(120)).await;
    assert_eq!(end["progress"]["bytes"], json!(file.len()));
    assert_eq!(text(&client.get("/v1/models/large").await.expect(200)["sha256"]), sha256(&file));
    objects_become(&stack, before + 1).await;
    client.get(&path).await.expect(404);
    let unknown = json!({"kind": "upload", "files": [{"path": "x.safetensors", "upload": begun["id"]}]});
    client.post("/v1/models", &json!({"name": "x", "source": unknown})).await.expect_problem(404, "source.files");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// The command, and a folder that the operator allowed.
#[tokio::test]
async fn the_command_brings_models_from_everywhere() {
    let stack = Stack::start(Pace::Promised).await;
    let hub = Hub::start([("clay.safetensors".to_owned(), lora(10)), ("LICENSE".to_owned(), b"Mine.".to_vec())]);
    let folder = stack.folder().join("allowed");
    std::fs::create_dir_all(folder.join("loras")).unwrap();
    std::fs::write(folder.join("loras/here.safetensors"), lora(20)).unwrap();
    let _worker = worker(&stack, &hub, &[("PYROGRAPH_IMPORT_DIR", folder.to_str().unwrap())]);

    let file = stack.folder().join("mine.safetensors");
    std::fs::write(&file, lora(30)).unwrap();
    let import = |source: &str, name: &str| {
        stack.cli_json(&["models", "import", source, "--name", name, "--kind", "lora", "--base", "tiny"])
    };
    let url = format!("{}/files/clay.safetensors", hub.url);
    assert_eq!(import(&url, "by-url")["source"]["url"], json!(url));
    let by_hub = import(&format!("hf:{OPEN}@refs/pr/1"), "by-hub");
    assert_eq!((&by_hub["source"]["revision"], &by_hub["license"]), (&json!("refs/pr/1"), &json!("Mine.")));
    assert_eq!(import(file.to_str().unwrap(), "by-file")["source"], Value::Null);
    stack
        .client
        .succeeded(&stack.client.import("by-path", &json!({"kind": "path", "path": "loras"})).await, seconds(60))
        .await;

    let code = |arguments: &[&str]| stack.cli(arguments).status.code();
    assert_eq!(code(&["models", "import", &url, "--name", "x", "--kind", "checkpoint"]), Some(1), "it is a LoRA");
    assert_eq!(code(&["models", "import", &url, "--name", "tiny"]), Some(4), "the name is taken");
    assert_eq!(code(&["models", "import", "hf:no", "--name", "x"]), Some(4), "no repository is called so");
    assert_eq!(code(&["models", "import", &url, "--name", "x", "--variant", "fp16"]), Some(2));
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// An adapter as PEFT saves it, with its alpha in a file beside it.
#[tokio::test]
async fn a_lora_brings_its_alpha_along_on_every_way_in() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 16}).to_string().into_bytes();
    let files = [("adapter_model.safetensors", lora(1)), ("adapter_config.json", config)];
    let hub = Hub::start(files.clone().map(|(name, bytes)| (name.to_owned(), bytes)));
    let allowed = stack.folder().join("allowed");
    std::fs::create_dir_all(allowed.join("peft")).unwrap();
    for (name, bytes) in &files {
        std::fs::write(allowed.join("peft").join(name), bytes).unwrap();
    }
    let _worker = worker(&stack, &hub, &[("PYROGRAPH_IMPORT_DIR", allowed.to_str().unwrap())]);

    let form: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
    client.add_model("form", &form, None).await.expect(201);
    let mut uploaded = Vec::new();
    for (name, bytes) in &files {
        let begun = client.post("/v1/uploads", &json!({"bytes": bytes.len()})).await.expect(201);
        assert_eq!(client.put_upload(&begun["parts"][0], bytes.clone()).await, 200);
        uploaded.push(json!({"path": name, "upload": begun["id"]}));
    }
    let [weights, _] = files.each_ref().map(|(name, _)| *name);
    let url = format!("{}/files/{weights}", hub.url);
    for (name, source) in [
        ("folder", json!({"kind": "path", "path": "peft"})),
        ("file", json!({"kind": "path", "path": format!("peft/{weights}")})),
        ("repository", json!({"kind": "hugging_face", "repo": OPEN})),
        ("named", json!({"kind": "hugging_face", "repo": OPEN, "files": [weights]})),
        ("url", json!({"kind": "url", "url": url})),
        ("parts", json!({"kind": "upload", "files": uploaded})),
    ] {
        client.succeeded(&client.import(name, &source).await, seconds(60)).await;
    }
    let local = allowed.join("peft");
    for (name, source) in [("command", local.clone()), ("command-file", local.join(weights))] {
        stack.cli_json(&["models", "import", source.to_str().unwrap(), "--name", name]);
    }
    for name in ["form", "folder", "file", "repository", "named", "url", "parts", "command", "command-file"] {
        let about = client.get(&format!("/v1/models/{name}/inspect")).await.expect(200);
        assert_eq!((&about["alpha_source"], &about["warnings"]), (&json!("adapter_config.json"), &json!([])), "{name}");
    }
    client.add_model("lost", &form[..1], None).await.expect(201);
    let about = client.get("/v1/models/lost/inspect").await.expect(200);
    assert_eq!(about["warnings"], json!(["alpha is not in the file; taken as the rank"]));
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
