//! The whole OpenAPI document against the running server: schemathesis, all checks, 50 examples for each operation.
//!
//! It needs Python's schemathesis, so it runs only where `just contract` has installed it and enables it.

use std::path::PathBuf;
use std::process::Stdio;

use journeys::client::text;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

#[tokio::test]
#[ignore = "run by `just contract`, which installs schemathesis first"]
async fn every_operation_keeps_its_contract() {
    let st = std::env::var_os("PYROGRAPH_SCHEMATHESIS")
        .map(PathBuf::from)
        .expect("PYROGRAPH_SCHEMATHESIS names the `st` program: run `just contract`");
    let stack = Stack::start(Pace::Promised).await;

    // One resource of each kind, so that lists and details have content to check.
    let mut worker = stack.worker("worker", "");
    let dataset = stack.client.dataset("discs", &discs(2)).await;
    let training =
        json!({"name": "discs", "dataset": dataset, "model": "tiny", "steps": 2, "rank": 2, "resolution": 32});
    stack.client.succeeded(&stack.client.train(&training).await, seconds(90)).await;
    let generation = json!({"prompt": "an owl", "model": "tiny", "loras": [{"model": "discs"}],
                            "num_inference_steps": 1, "width": 32, "height": 32});
    stack.client.succeeded(&stack.client.generate(&generation).await, seconds(60)).await;
    // No worker from here on: generated requests would keep the machine busy for hours.
    worker.kill();

    stack.client.post("/v1/projects", &json!({"name": "other"})).await.expect(201);
    let made = stack.client.post("/v1/keys", &json!({"name": "schemathesis"})).await.expect(201);
    let key = format!("Authorization: Bearer {}", text(&made["key"]));
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis.toml");
    let url = format!("{}/openapi.json", stack.client.base());
    // With the key, which must not be revoked, and without. Wrong keys are tested in api/tests/rest/keys.rs: here the
    // attempts would be too many for one address.
    let with_key = ["--max-examples", "50", "--header", key.as_str(), "--exclude-checks", "ignored_auth"];
    let keeps_key = ["--exclude-operation-id", "revoke_key", "--exclude-operation-id", "change_key"];
    let without = ["--max-examples", "3", "--exclude-checks", "ignored_auth,positive_data_acceptance"];
    for flags in [[&with_key[..], &keeps_key].concat(), without.to_vec()] {
        let mut command = tokio::process::Command::new(&st);
        command.args(["--config-file", config, "run", &url, "--checks", "all", "--seed", "1"]).args(flags);
        let status = command.current_dir(stack.folder()).stdin(Stdio::null()).kill_on_drop(true).status();
        let status = tokio::time::timeout(seconds(570), status).await.expect("schemathesis ends in time").unwrap();
        assert!(status.success(), "schemathesis found something; see above");
    }
    assert!(stack.client.is_ready().await, "the server is as well as before");
    stack.ledger.audit().await;
}
