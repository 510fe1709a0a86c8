//! What a project has used, and what that costs.

use api::Access;
use chrono::Utc;
use domain::job::JobKind;
use domain::prices::Prices;
use serde_json::{Value, json};

use crate::projects::Site;
use crate::test_server::{TestServer, text};

const PRICES: &str = "currency = \"EUR\"\ngpu_hour = 36000000\ngib = 1073.741824\n[models.dear]\ngpu_hour = 99";

/// An installation with a key and a table of prices.
async fn site() -> Site {
    let open = TestServer::with_checkpoint().await;
    let access = Access::keys(open.pools.api.clone());
    let server = open.with(|state| state.with_access(access).with_prices(Prices::read(PRICES).unwrap())).await;
    let admin = text(&server.post("/v1/keys", &json!({"name": "first"})).await.expect(201)["key"]);
    Site { server, admin }
}

#[tokio::test]
async fn usage_is_that_of_the_project_in_groups() {
    let site = site().await;
    let (admin, nobody) = (site.admin.as_str(), None);
    let made = site.post(admin, nobody, "/v1/keys", &json!({"name": "second", "scopes": ["generate"]})).await;
    let second = made.expect(201);
    let (second, id) = (text(&second["key"]), text(&second["id"]));
    let stored = site.get(admin, nobody, "/v1/usage").await.expect(200)["stored_bytes"].as_i64().unwrap();
    let first = site.post(admin, nobody, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    assert_eq!(first["usage"], json!({"gpu_seconds": 0.0, "bytes": 0, "cost": {"amount": 0.0, "currency": "EUR"}}));
    let claim = site.server.claim(JobKind::Generation).await;
    let picture = site.server.paint(&claim).await.len();
    site.post(&second, nobody, "/v1/generations", &json!({"prompt": "an owl"})).await.expect(202);

    let used = |groups: &'static str| {
        let site = &site;
        async move {
            let path = format!("/v1/usage?group_by={groups}");
            site.get(admin, nobody, &path).await.expect(200)["items"].as_array().unwrap().clone()
        }
    };
    let whole = site.get(&second, nobody, "/v1/usage").await.expect(200);
    let today = Utc::now().date_naive();
    assert_eq!((&whole["to"], &whole["stored_bytes"]), (&json!(today), &json!(stored + picture as i64)));
    let [all] = whole["items"].as_array().unwrap().as_slice() else { panic!("{whole}") };
    assert_eq!((&all["jobs"], &all["bytes"]), (&json!(2), &json!(picture)));
    assert!(all.get("day").is_none() && all.get("model").is_none() && all.get("key").is_none(), "{all}");
    let seconds = all["gpu_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0, "{all}");
    // 10 000 a second, and a millionth a byte.
    let cost = seconds * 10_000.0 + picture as f64 / 1e6;
    assert!((all["cost"]["amount"].as_f64().unwrap() - cost).abs() < 1e-5, "{all}");

    for path in [format!("/v1/generations/{}", text(&first["id"])), format!("/v1/jobs/{}", text(&first["id"]))] {
        let usage = site.get(admin, nobody, &path).await.expect(200)["usage"].clone();
        assert_eq!(
            (&usage["gpu_seconds"], &usage["bytes"], &usage["cost"]),
            (&all["gpu_seconds"], &all["bytes"], &all["cost"],)
        );
    }
    let keys = used("key").await;
    assert_eq!(
        keys.iter().filter(|group| group["key"] == id.as_str()).map(|group| &group["jobs"]).collect::<Vec<_>>(),
        [&json!(1)]
    );
    assert_eq!(keys.len(), 2);
    let each = used("day,model,key").await;
    assert!(each.iter().all(|group| group["day"] == json!(today) && group["model"] == "ember"), "{each:?}");
    assert_eq!(used("model").await.len(), 1);

    // Nothing of a deleted generation is forgotten, and nothing is that of another project.
    let deleted = format!("/v1/generations/{}", text(&first["id"]));
    site.send(admin, nobody, reqwest::Method::DELETE, &deleted, None).await.expect(204);
    let after = site.get(admin, nobody, "/v1/usage").await.expect(200);
    assert_eq!((&after["items"][0]["gpu_seconds"], &after["stored_bytes"]), (&all["gpu_seconds"], &json!(stored)));
    site.post(admin, nobody, "/v1/projects", &json!({"name": "shop"})).await.expect(201);
    assert_eq!(site.get(admin, Some("shop"), "/v1/usage").await.expect(200)["items"], json!([]));
    assert_eq!(
        site.get(admin, nobody, "/v1/usage?from=2026-01-01&to=2026-01-02").await.expect(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn wrong_days_and_groups_are_named() {
    let server = TestServer::new().await;
    assert_eq!(server.get("/v1/usage").await.expect(200)["items"], Value::Array(Vec::new()));
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=2026-02-30", "from"),
        ("from=2026-01-01T00:00:00Z", "from"),
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("from=1970-01-01", "from"),
        ("from=-262143-01-01&to=-262143-01-01", "from"),
        ("from=%2B262142-12-31&to=%2B262142-12-31", "from"),
        ("to=%2B262142-12-31", "to"),
        ("to=1", "to"),
        ("group_by=", "group_by"),
        ("group_by=day,,key", "group_by"),
        ("group_by=project", "group_by"),
        ("group_by=%00", "group_by"),
        ("days=3", "days"),
    ] {
        server.get(&format!("/v1/usage?{query}")).await.refuses(422, field);
    }
    let all = server.get("/v1/usage?from=x&to=y&group_by=z").await.expect(422);
    assert_eq!(all["errors"].as_array().unwrap().len(), 3, "{all}");
    let long = format!("/v1/usage?group_by={}", "day,".repeat(2000));
    server.get(&long).await.refuses(422, "group_by");
}
