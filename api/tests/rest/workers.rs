//! Workers report what they have loaded, and can be asked to load and unload.

use api::Access;
use domain::job::JobKind;
use domain::swap;
use domain::worker::{self, Resident};
use domain::{Caller, KeyId, Principal, ProjectId, Scopes, WorkerId, generation};
use memory::Budget;
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, lora, text};

impl TestServer {
    /// A live worker, according to its row.
    pub(crate) async fn worker(&self, name: &str, queues: &[JobKind]) -> WorkerId {
        let id = WorkerId::new();
        worker::register(&self.pools.lease, id, name, "host", "cpu", queues, "1", Some(&Budget::on_cpu(1 << 30)))
            .await
            .unwrap();
        id
    }

    /// A worker reports that it has loaded a model.
    pub(crate) async fn loads(&self, worker: WorkerId, sha256: &str) {
        let resident = Resident { sha256: sha256.to_owned(), bytes: 1 };
        worker::seen(&self.pools.lease, worker, &[resident]).await.unwrap();
    }
}

fn items(answer: &Value) -> &Vec<Value> {
    answer["items"].as_array().unwrap()
}

#[tokio::test]
async fn a_model_tells_where_it_is_loaded() {
    let server = TestServer::with_checkpoint().await;
    let ember = server.get("/v1/models/ember").await.expect(200);
    assert_eq!(ember["resident_on"], json!([]));
    assert_eq!(server.get("/v1/workers").await.expect(200), json!({"items": [], "next_cursor": null}));

    let [first, second] = [server.worker("first", &JobKind::ALL).await, server.worker("second", &JobKind::ALL).await];
    let unknown = Resident { sha256: "0".repeat(64), bytes: 3 };
    let resident = [Resident { sha256: text(&ember["sha256"]), bytes: 42 }, unknown];
    worker::seen(&server.pools.lease, first, &resident).await.unwrap();
    let place = json!([{"worker": first, "name": "first", "device": "cpu", "bytes": 42}]);
    assert_eq!(server.get("/v1/models/ember").await.expect(200)["resident_on"], place);
    assert_eq!(items(&server.get("/v1/models").await.expect(200))[0]["resident_on"], place);

    let made = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let claim = server.claim_as(JobKind::Generation, first).await;
    let workers = server.get("/v1/workers").await.expect(200);
    let [newest, oldest] = items(&workers).as_slice() else { panic!("{workers:#}") };
    assert_eq!((&newest["id"], &newest["resident"], &newest["jobs"]), (&json!(second), &json!([]), &json!([])));
    assert_eq!(oldest["jobs"], json!([{"kind": "generation", "url": made["urls"]["self"]}]));
    let reference = json!({"id": ember["id"], "name": "ember"});
    assert_eq!(
        oldest["resident"],
        json!([
            {"model": reference, "sha256": ember["sha256"], "bytes": 42},
            {"model": null, "sha256": null, "bytes": 3},
        ])
    );
    let page = server.get("/v1/workers?limit=1").await.expect(200);
    let next = server.get(&format!("/v1/workers?limit=1&cursor={}", text(&page["next_cursor"]))).await.expect(200);
    assert_eq!((items(&page).len(), &items(&next)[0]["id"]), (1, &json!(first)));
    server.get("/v1/workers?limit=0").await.refuses(422, "limit");

    // A generation is queued with the digest that determines which worker prefers it.
    let base: String = sqlx::query_scalar("SELECT base_sha256 FROM jobs WHERE id = $1")
        .bind(claim.job.0)
        .fetch_one(&server.pools.lease)
        .await
        .unwrap();
    assert_eq!(base, text(&ember["sha256"]));
    generation::finish(&server.pools.lease, &claim, Vec::new(), &[]).await.unwrap();
}

#[tokio::test]
async fn workers_are_asked_to_load_and_to_unload() {
    let server = TestServer::with_checkpoint().await;
    let pool = &server.pools.lease;
    server.post("/v1/models/ember/load", &json!({})).await.refuses(409, "");
    let importer = server.worker("importer", &[JobKind::Import]).await;
    server.post("/v1/models/ember/load", &json!({})).await.refuses(409, "");
    server.post("/v1/models/ember/load", &json!({"worker": "importer"})).await.refuses(409, "worker");
    let first = server.worker("first", &JobKind::ALL).await;
    let second = server.worker("second", &[JobKind::Generation]).await;

    // All workers that make pictures; also without a body.
    let answer = server.send(server.request(Method::POST, "/v1/models/ember/load")).await;
    assert_eq!(answer.header("location"), "/v1/workers");
    let asked = answer.expect(202);
    let asked: Vec<_> =
        asked["swaps"].as_array().unwrap().iter().map(|swap| (&swap["worker"], &swap["status"])).collect();
    let queued = json!("queued");
    assert_eq!(asked, [(&json!(first), &queued), (&json!(second), &queued)]);
    assert!(swap::next(pool, importer).await.unwrap().is_none());

    // The first one succeeds; the second one fails, gets the opposite request while it is busy, and then reports the
    // end of the old one.
    let work = swap::next(pool, first).await.unwrap().unwrap();
    assert_eq!((work.model.name.as_str(), work.action.as_str(), work.deleted), ("ember", "load", false));
    assert_eq!(swap::next(pool, first).await.unwrap().unwrap().id, work.id, "until its end is written");
    swap::end(pool, work.id, None).await.unwrap();
    assert!(swap::next(pool, first).await.unwrap().is_none());
    let old = swap::next(pool, second).await.unwrap().unwrap();
    server.post("/v1/models/ember/unload", &json!({"worker": second})).await.expect(202);
    swap::end(pool, old.id, Some("it does not fit")).await.unwrap();
    let swaps = async || {
        let workers = server.get("/v1/workers").await.expect(200);
        let told = |worker: &Value| {
            let swap = &worker["swaps"][0];
            (text(&worker["name"]), [&swap["action"], &swap["status"], &swap["error"]].map(Value::clone))
        };
        items(&workers).iter().map(told).collect::<std::collections::HashMap<_, _>>()
    };
    let told = swaps().await;
    assert_eq!(told["first"], [json!("load"), json!("succeeded"), json!(null)]);
    assert_eq!(told["second"], [json!("unload"), json!("queued"), json!(null)]);
    let new = swap::next(pool, second).await.unwrap().unwrap();
    swap::end(pool, new.id, Some("it does not fit")).await.unwrap();
    assert_eq!(swaps().await["second"], [json!("unload"), json!("failed"), json!("it does not fit")]);

    // Who asked: the latest one.
    let asked = async || -> (Option<KeyId>, Option<String>) {
        let statement = "SELECT key_id, account FROM swaps WHERE worker = $1";
        sqlx::query_as(statement).bind(first.0).fetch_one(pool).await.unwrap()
    };
    assert_eq!(asked().await, (None, None));
    let key = KeyId::new();
    for (principal, expected) in
        [(Principal::Key(key), (Some(key), None)), (Principal::Hub("jane".into()), (None, Some("jane".to_owned())))]
    {
        let caller = Caller::new(ProjectId::DEFAULT, principal, Scopes::ALL);
        let server = server.another(Access::open(caller)).await;
        server.post("/v1/models/ember/load", &json!({"worker": "first"})).await.expect(202);
        assert_eq!(asked().await, expected);
    }

    // A model that is deleted before its turn.
    server.post("/v1/models/ember/load", &json!({"worker": "first"})).await.expect(202);
    server.delete("/v1/models/ember").await.expect(204);
    assert!(swap::next(pool, first).await.unwrap().unwrap().deleted);
}

#[tokio::test]
async fn swaps_that_make_no_sense() {
    let server = TestServer::with_checkpoint().await;
    server.worker("first", &JobKind::ALL).await;
    server.import("clay", None, &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    for action in ["load", "unload"] {
        server.post(&format!("/v1/models/nobody/{action}"), &json!({})).await.refuses(404, "");
        server.post(&format!("/v1/models/clay/{action}"), &json!({})).await.refuses(422, "model");
        let ember = format!("/v1/models/ember/{action}");
        server.post(&ember, &json!({"worker": "nobody"})).await.refuses(404, "worker");
        server.post(&ember, &json!({"worker": WorkerId::new()})).await.refuses(404, "worker");
        server.post(&ember, &json!({"worker": 1})).await.refuses(422, "worker");
        server.post(&ember, &json!({"wroker": "first"})).await.refuses(422, "wroker");
        server.send(server.request(Method::POST, &ember).body("first")).await.refuses(415, "");
        server
            .send(server.request(Method::POST, &ember).header("content-type", "application/json").body("{"))
            .await
            .refuses(400, "");
    }
    assert_eq!(server.count("swaps").await, 0);
}
