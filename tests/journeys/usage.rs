//! What a project has used, and what that costs by a table of prices.

use journeys::stack::{Pace, Stack, run};
use journeys::wait::seconds;
use serde_json::{Value, json};

#[tokio::test]
async fn prices_give_jobs_costs() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "");
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let done = stack.client.succeeded(&stack.client.generate(&request).await, seconds(60)).await;
    assert!(done["usage"]["gpu_seconds"].as_f64() > Some(0.0), "{done:#}");
    assert!(done["usage"].get("cost").is_none(), "the server has no prices: {done:#}");

    let prices = stack.folder().join("prices.toml");
    std::fs::write(&prices, "currency = \"EUR\"\n[models.tiny]\ngpu_hour = 3600000").unwrap();
    let (_api, priced) = stack.another_api("priced", &[("PYROGRAPH_PRICES", prices.to_str().unwrap())]).await;
    let usage = priced.get(done["urls"]["self"].as_str().unwrap()).await.expect(200)["usage"].clone();
    assert!(usage["cost"]["amount"].as_f64() > Some(0.0) && usage["cost"]["currency"] == "EUR", "{usage}");

    let server = priced.base();
    let shown = run(&stack.site, &[], &["usage", "--group-by", "model,key", "--server", server]);
    let table = String::from_utf8(shown.stdout).unwrap();
    assert!(table.contains("tiny") && table.contains(" EUR"), "{table}");
    let shown = run(&stack.site, &[], &["usage", "--json", "--server", server]);
    let whole: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(whole["items"][0]["cost"], usage["cost"], "{whole:#}");

    std::fs::write(&prices, "currency = \"EUR\"\ngpu_hour = -1").unwrap();
    for (file, says) in [(prices.to_str().unwrap(), "`gpu_hour` is -1"), ("nowhere.toml", "No such file")] {
        let refused = run(&stack.site, &[("PYROGRAPH_PRICES", file)], &["serve", "--bind", "127.0.0.1:0"]);
        let why = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{why}");
        assert!(why.contains("PYROGRAPH_PRICES") && why.contains(says), "{why}");
    }
}
