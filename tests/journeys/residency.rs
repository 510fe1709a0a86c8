//! Hot swap: models are loaded and unloaded on request, jobs go to the worker that has their model, and a dead worker
//! has nothing loaded.

use journeys::client::{Client, text};
use journeys::model::pipeline_files;
use journeys::process::{Process, Signal, send};
use journeys::sse::Events;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

fn request(model: &str, steps: u32) -> Value {
    json!({"prompt": "an owl", "model": model, "num_inference_steps": steps, "width": 32, "height": 32, "seed": 3})
}

/// Names of the workers that have the model loaded.
async fn residents(client: &Client, model: &str) -> Vec<String> {
    let model = client.get(&format!("/v1/models/{model}")).await.expect(200);
    model["resident_on"].as_array().unwrap().iter().map(|place| text(&place["name"])).collect()
}

async fn resident_on(client: &Client, model: &str, workers: &[&str]) {
    until(seconds(60), &format!("{model} is loaded on {workers:?} alone"), || async {
        (residents(client, model).await == workers).then_some(())
    })
    .await;
}

/// Waits until this many workers have reported that they are alive.
async fn live(client: &Client, count: usize) -> Vec<Value> {
    until(seconds(60), &format!("{count} workers live"), || async {
        let workers = client.get("/v1/workers").await.expect(200)["items"].as_array().unwrap().clone();
        (workers.len() == count).then_some(workers)
    })
    .await
}

/// How often its engine read a model from disk.
fn loads(worker: &Process) -> usize {
    worker.log().matches("model loaded").count()
}

/// The smaller worker claims first; the larger one, stopped meanwhile, gets the job when it continues. Without the
/// larger one the request is refused. A worker fetches nothing for a job that does not fit.
#[tokio::test]
async fn what_does_not_fit_into_one_worker_goes_to_one_with_more_memory() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let budget = |bytes: &'static str| [("PYROGRAPH_VRAM_BUDGET", bytes)];
    let large = stack.worker_with("large", "", &budget("2GiB"));
    live(client, 1).await;
    let small = stack.worker_with("small", "", &budget("1MiB"));
    let workers = live(client, 2).await;
    assert_eq!((&workers[0]["vram_budget"], &workers[1]["vram_budget"]), (&json!(1 << 20), &json!(2_u64 << 30)));

    large.signal(Signal::STOP);
    let generation = client.generate(&request("tiny", 2)).await;
    let path = text(&generation["urls"]["self"]);
    until(seconds(30), "the small one gives it back", || async {
        let now = client.get(&path).await.expect(200);
        (now["status"] == "queued" && now["attempts"] != 0).then_some(())
    })
    .await;
    large.signal(Signal::CONT);
    let done = client.succeeded(&generation, seconds(60)).await;
    assert_eq!(done["attempts"], 2);
    let events = Events::open(client, &text(&done["urls"]["events"]), None).await.rest(seconds(10)).await;
    let retrying = events.iter().find(|event| event.kind == "retrying").expect("it was told");
    assert!(text(&retrying.data["message"]).contains("may use more memory"), "{}", retrying.data);

    drop(large);
    live(client, 1).await;
    // The server may have asked for the workers two seconds ago.
    let refused = until(seconds(10), "a request is refused", || async {
        let answer = client.post("/v1/generations", &request("tiny", 2)).await;
        (answer.status != 202).then_some(answer)
    })
    .await;
    let message = text(&refused.body["errors"][0]["message"]);
    assert!(message.contains("On `small`, 32×32 takes at least") && message.contains("--vram-budget"), "{message}");
    refused.expect_problem(422, "width");

    // A job that was accepted while no worker ran.
    drop(small);
    live(client, 0).await;
    let accepted = client.generate(&request("tiny", 2)).await;
    let _small = stack.worker_with("small", "", &budget("1MiB"));
    let failed = client.settled(&accepted, seconds(60)).await;
    assert_eq!(
        (&failed["status"], &failed["error"]["class"]),
        (&json!("failed"), &json!("invalid_input")),
        "{failed:#}"
    );
    assert!(text(&failed["error"]["message"]).contains("--vram-budget"), "{failed:#}");
    assert_eq!(stack.cached("small"), 0, "nothing was fetched for what does not fit");
    assert!(stack.cached("large") > 0);
    stack.ledger.audit().await;
}

#[tokio::test]
async fn a_loaded_model_starts_at_once_and_an_unloaded_one_comes_back_by_itself() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let name = "anvil";
    let worker = stack.worker(name, "");
    live(client, 1).await;

    let asked = client.post("/v1/models/tiny/load", &json!({})).await.expect(202);
    assert_eq!((&asked["swaps"][0]["name"], &asked["swaps"][0]["action"]), (&json!(name), &json!("load")), "{asked:#}");
    resident_on(client, "tiny", &[name]).await;
    assert_eq!(loads(&worker), 1);
    client.succeeded(&client.generate(&request("tiny", 2)).await, seconds(60)).await;
    assert_eq!(loads(&worker), 1, "the generation found it loaded");

    // The command waits for the end, which comes after the current job.
    let running = client.generate(&request("tiny", 2)).await;
    let unloaded = stack.cli_json(&["models", "unload", "tiny", "--worker", name]);
    assert_eq!(unloaded["swaps"][0]["status"], "succeeded", "{unloaded:#}");
    let seen = residents(client, "tiny").await;
    client.succeeded(&running, seconds(60)).await;
    assert!(seen.is_empty() || loads(&worker) == 2, "{seen:?}");
    stack.cli_json(&["models", "unload", "tiny"]);
    resident_on(client, "tiny", &[]).await;
    let before = loads(&worker);
    client.succeeded(&client.generate(&request("tiny", 1)).await, seconds(60)).await;
    assert_eq!(loads(&worker), before + 1, "it was loaded again by itself");
    resident_on(client, "tiny", &[name]).await;

    // The models that its engine had loaded are unloaded.
    send(worker.engine().expect("an engine runs"), Signal::KILL);
    resident_on(client, "tiny", &[]).await;
    let loaded = stack.cli(&["models", "load", "tiny"]);
    assert!(loaded.status.success(), "{loaded:?}");
    let told = String::from_utf8(loaded.stdout).unwrap();
    assert!(told.contains("load tiny on") && told.contains("succeeded"), "{told}");
    let table = String::from_utf8(stack.cli(&["workers"]).stdout).unwrap();
    assert!(table.starts_with("NAME") && table.contains("tiny"), "{table}");
    assert_eq!(stack.cli_json(&["workers"])[0]["resident"][0]["model"]["name"], "tiny");

    // Invalid requests.
    assert!(!stack.cli(&["models", "load", "nobody"]).status.success());
    assert!(!stack.cli(&["models", "load", "tiny", "--worker", "nobody"]).status.success());
    stack.ledger.audit().await;
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_and_harms_nobody() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let worker = stack.worker("worker", "");
    live(client, 1).await;
    stack.cli_json(&["models", "load", "tiny"]);

    // A checkpoint whose last value is NaN: no gate reads values, only the engine.
    let mut files = pipeline_files("flux-tiny");
    let is_transformer = |path: &str| path.starts_with("transformer/") && path.ends_with(".safetensors");
    let (_, weights) = files.iter_mut().find(|(path, _)| is_transformer(path)).unwrap();
    let last = weights.len() - 4;
    weights[last..].fill(0xff);
    client.add_model("torn", &files, None).await.expect(201);
    let output = stack.cli(&["models", "load", "torn", "--json"]);
    assert!(!output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["swaps"][0]["status"], "failed", "{told:#}");
    assert!(told["swaps"][0]["error"].as_str().is_some_and(|error| error.contains("NaN")), "{told:#}");
    assert!(residents(client, "torn").await.is_empty());
    assert_eq!(residents(client, "tiny").await.len(), 1, "the other one stays");
    assert_eq!(loads(&worker), 1);

    // An import continues meanwhile, and a queue of swaps is carried out in order.
    for action in ["unload", "load", "unload", "load"] {
        client.post(&format!("/v1/models/tiny/{action}"), &json!(null)).await.expect(202);
    }
    until(seconds(60), "the last wish is the one that counts", || async {
        let swap = live(client, 1).await[0]["swaps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|swap| swap["model"]["name"] == "tiny")
            .cloned();
        let swap = swap.expect("a swap");
        (swap["action"] == "load" && swap["status"] == "succeeded").then_some(())
    })
    .await;
    assert_eq!(residents(client, "tiny").await.len(), 1);
    stack.ledger.audit().await;
}

#[tokio::test]
async fn jobs_go_to_the_worker_that_has_their_model() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    client.add_model("sd", &pipeline_files("sd15-tiny"), None).await.expect(201);
    let mut workers = Vec::new();
    for name in ["anvil", "bellows"] {
        workers.push(stack.worker(name, "step_delay_ms=100"));
    }
    let mut live = live(client, 2).await;
    live.sort_by_key(|worker| text(&worker["name"]));
    let ids: Vec<_> = live.iter().map(|worker| text(&worker["id"])).collect();
    stack.cli_json(&["models", "load", "tiny", "--worker", "anvil"]);
    stack.cli_json(&["models", "load", "sd", "--worker", &ids[1]]);

    // Both are stopped until everything is queued: the model that each lacks is the older half of the queue.
    for worker in &workers {
        worker.signal(Signal::STOP);
    }
    let mut jobs = Vec::new();
    for _ in 0..3 {
        for model in ["sd", "tiny"] {
            jobs.push((model, client.generate(&request(model, 3)).await));
        }
    }
    for worker in workers.iter().rev() {
        worker.signal(Signal::CONT);
    }
    let mut firsts: [Option<(f64, &str)>; 2] = [None, None];
    for (model, job) in &jobs {
        client.succeeded(job, seconds(90)).await;
        let attempts = stack.ledger.attempts(&text(&job["id"])).await;
        assert_eq!(attempts.len(), 1, "{attempts:#?}");
        let worker = ids.iter().position(|id| *id == attempts[0].worker).unwrap();
        if firsts[worker].is_none_or(|(earliest, _)| attempts[0].started_at < earliest) {
            firsts[worker] = Some((attempts[0].started_at, *model));
        }
    }
    assert_eq!(firsts.map(|first| first.map(|(_, model)| model)), [Some("tiny"), Some("sd")]);
    let overtaking: i64 = sqlx::query_scalar("select count(*) from attempts where overtook is not null")
        .fetch_one(stack.ledger.pool())
        .await
        .unwrap();
    assert!(overtaking >= 1, "the preference decided");
    stack.ledger.audit().await;
}
