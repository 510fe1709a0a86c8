//! Quotas of a project, and how it is changed.

use std::net::Ipv4Addr;

use api::Access;
use domain::job::{self, ErrorClass, JobKind, LeasePolicy};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::projects::Site;
use crate::test_server::{Answer, picture_part, png, text};

const DEFAULT: &str = "/v1/projects/default";

impl Site {
    async fn change(&self, project: &str, changes: &Value) -> Answer {
        self.send(&self.admin, None, Method::PATCH, project, Some(changes)).await
    }

    async fn generate(&self) -> Answer {
        self.post(&self.admin, None, "/v1/generations", &json!({"prompt": "a fox"})).await
    }

    pub(crate) async fn input(&self, shade: u8) -> Answer {
        let form = Form::new().part("image", picture_part(png(40, 30, shade)));
        let request = self.server.request(Method::POST, "/v1/inputs").bearer_auth(&self.admin).multipart(form);
        self.server.send(request).await
    }
}

#[tokio::test]
async fn of_500_requests_at_once_a_quota_of_100_admits_exactly_100() {
    let site = Site::new().await;
    let other = site.server.another(Access::keys(site.server.pools.api.clone())).await;
    site.change(DEFAULT, &json!({"quotas": {"queued_jobs": 100}})).await.expect(200);
    // The address that a request claims to come from changes nothing.
    let site = &site;
    let asked = (0..500_u32).map(|number| {
        let server = if number % 2 == 0 { &site.server } else { &other };
        let address = Ipv4Addr::from_bits(0xc000_0200 + number);
        server.send_patiently(move || {
            let request = server.request(Method::POST, "/v1/generations").bearer_auth(&site.admin);
            request.header("x-forwarded-for", address.to_string()).json(&json!({"prompt": "a fox"}))
        })
    });
    // No more at once, so that a busy machine serves them in time; domain/tests/results/quotas.rs has 600 at once.
    let answers: Vec<Answer> = stream::iter(asked).buffer_unordered(100).collect().await;
    let admitted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(admitted, 100);
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        answer.refuses(429, "quotas.queued_jobs");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    for table in ["jobs", "generations", "job_events"] {
        assert_eq!(site.server.count(table).await, 100, "{table}");
    }

    // A place that becomes free is taken once.
    let one = answers.iter().find(|answer| answer.status == 202).unwrap();
    let path = format!("/v1/generations/{}/cancel", text(&one.body["id"]));
    site.post(&site.admin, None, &path, &json!({})).await.expect(200);
    let answers = join_all((0..10).map(|_| site.generate())).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    site.change(DEFAULT, &json!({"quotas": {"queued_jobs": null}})).await.expect(200);
    site.generate().await.expect(202);
}

#[tokio::test]
async fn each_quota_refuses_by_its_name_and_concerns_its_project_only() {
    let site = Site::new().await;
    site.post(&site.admin, None, "/v1/projects", &json!({"name": "shop"})).await.expect(201);
    site.send(&site.admin, None, Method::PATCH, "/v1/models/ember", Some(&json!({"shared": true}))).await.expect(200);
    let shop = site.key_of("shop").await;
    let failed = site.generate().await.expect(202);
    let claim = site.server.claim(JobKind::Generation).await;
    let pool = &site.server.pools.lease;
    job::fail(pool, &claim, &LeasePolicy::default(), ErrorClass::InvalidInput, "no").await.unwrap();

    site.change(DEFAULT, &json!({"quotas": {"jobs_per_day": 2}})).await.expect(200);
    let path = format!("/v1/jobs/{}/retry", text(&failed["id"]));
    site.post(&site.admin, None, &path, &json!({})).await.expect(202);
    let refused = site.generate().await;
    refused.refuses(429, "quotas.jobs_per_day");
    let seconds: i64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "{seconds}");
    let import = json!({"name": "clay", "source": {"kind": "url", "url": "https://example.com/clay.safetensors"}});
    site.post(&site.admin, None, "/v1/models", &import).await.refuses(429, "quotas.jobs_per_day");
    site.post(&shop, None, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);

    site.change(DEFAULT, &json!({"quotas": {"jobs_per_day": null, "gpu_seconds_per_day": 3600}})).await.expect(200);
    site.generate().await.expect(202);
    sqlx::query("UPDATE attempts SET started_at = started_at - interval '1 hour'").execute(pool).await.unwrap();
    site.generate().await.refuses(429, "quotas.gpu_seconds_per_day");
    site.change(DEFAULT, &json!({"quotas": {"gpu_seconds_per_day": null}})).await.expect(200);
    site.generate().await.expect(202);
}

#[tokio::test]
async fn what_a_project_stores_stays_within_its_quota() {
    let site = Site::new().await;
    let size = |shade: &u8| png(40, 30, *shade).len();
    let alike: Vec<u8> = (1..=255).filter(|shade| size(shade) == size(&1)).take(11).collect();
    assert_eq!(alike.len(), 11);
    let first = site.input(alike[0]).await.expect(201);
    let bytes = size(&1) as i64;
    let stored: i64 = sqlx::query_scalar("SELECT sum(bytes)::bigint FROM stored_bytes")
        .fetch_one(&site.server.pools.lease)
        .await
        .unwrap();
    let quota = stored + 2 * bytes + 10;
    site.change(DEFAULT, &json!({"quotas": {"stored_bytes": quota}})).await.expect(200);
    let objects = site.server.objects();
    let answers = join_all(alike[1..].iter().map(|shade| site.input(*shade))).await;
    let admitted = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(admitted, 2);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refuses(429, "quotas.stored_bytes");
    }
    assert_eq!(site.server.objects(), objects + 2, "a refused picture leaves no object");
    site.post(&site.admin, None, "/v1/uploads", &json!({"bytes": 11})).await.refuses(429, "quotas.stored_bytes");
    site.post(&site.admin, None, "/v1/uploads", &json!({"bytes": 10})).await.expect(201);
    site.generate().await.refuses(429, "quotas.stored_bytes");

    let path = format!("/v1/inputs/{}", text(&first["id"]));
    site.send(&site.admin, None, Method::DELETE, &path, None).await.expect(204);
    site.generate().await.expect(202);
}

#[tokio::test]
async fn changes_are_shown_and_written_down() {
    let site = Site::new().await;
    let made = site.get(&site.admin, None, DEFAULT).await.expect(200);
    let none = json!({
        "queued_jobs": null, "running_jobs": null, "jobs_per_day": null, "gpu_seconds_per_day": null,
        "stored_bytes": null,
    });
    let for_ever = json!({"outputs_days": null, "inputs_days": null, "events_days": null, "failed_jobs_days": null});
    assert_eq!((&made["quotas"], &made["retention"]), (&none, &for_ever));
    let changes = json!({
        "quotas": {
            "queued_jobs": 1, "running_jobs": 2, "jobs_per_day": 3, "gpu_seconds_per_day": 4.0,
            "stored_bytes": 1_000_000_000_000_000_i64,
        },
        "retention": {"outputs_days": 30, "inputs_days": 36500, "events_days": 1.0, "failed_jobs_days": 7},
    });
    let changed = site.change(DEFAULT, &changes).await.expect(200);
    assert_eq!(changed["quotas"]["stored_bytes"], 1_000_000_000_000_000_i64);
    let partly = json!({"quotas": {"running_jobs": null}});
    let changed = site.change(DEFAULT, &partly).await.expect(200);
    let quotas = &changed["quotas"];
    assert_eq!((&quotas["running_jobs"], &quotas["jobs_per_day"]), (&Value::Null, &json!(3)));
    let kept = json!({"outputs_days": 30, "inputs_days": 36500, "events_days": 1, "failed_jobs_days": 7});
    assert_eq!(changed["retention"], kept);
    assert_eq!(site.get(&site.admin, None, DEFAULT).await.expect(200), changed);

    let log = site.get(&site.admin, None, "/v1/audit").await.expect(200);
    let entry = &log["items"][0];
    assert_eq!((&entry["action"], &entry["object"]), (&json!("project.change"), &changed["id"]));
    assert_eq!(entry["details"], partly);
}

#[tokio::test]
async fn changes_that_make_no_sense() {
    let site = Site::new().await;
    let before = site.get(&site.admin, None, DEFAULT).await.expect(200);
    let long = "1".repeat(1000);
    for (field, most) in [
        ("queued_jobs", i64::from(i32::MAX)),
        ("running_jobs", i64::from(i32::MAX)),
        ("jobs_per_day", i64::from(i32::MAX)),
        ("gpu_seconds_per_day", 1_000_000_000_000),
        ("stored_bytes", 1_000_000_000_000_000),
    ] {
        let numbers = [json!(1.5), json!(-1), json!(most + 1), json!(1e30)];
        let others = [json!("5"), json!(true), json!([5]), json!({}), json!(long), json!("\u{0}")];
        for value in numbers.into_iter().chain(others) {
            let body = json!({"quotas": {field: value}});
            site.change(DEFAULT, &body).await.refuses(422, &format!("quotas.{field}"));
        }
    }
    for value in [json!("5"), json!(0), json!(-1), json!(36_501), json!(1.5), json!([1]), json!("\u{0}")] {
        for field in ["outputs_days", "inputs_days", "events_days", "failed_jobs_days"] {
            let changes = json!({"retention": {field: value}});
            let name = format!("retention.{field}");
            site.change(DEFAULT, &changes).await.refuses(422, &name);
            site.change(&format!("{DEFAULT}?dry_run=true"), &changes).await.refuses(422, &name);
            let mut request = json!({"name": "store"});
            request["retention"] = changes["retention"].clone();
            site.post(&site.admin, None, "/v1/projects", &request).await.refuses(422, &name);
        }
    }
    for query in ["dry_run=maybe", "dry_run=", "dry_run=true&dry_run=true", "dry_run=a%00b"] {
        site.change(&format!("{DEFAULT}?{query}"), &json!({})).await.refuses(422, "dry_run");
    }
    site.change(&format!("{DEFAULT}?dryrun=true"), &json!({})).await.refuses(422, "dryrun");
    for (field, body) in [
        ("quotas", json!({"quotas": 5})),
        ("quotas", json!({"quotas": [1, 2, 3, 4, 5]})),
        ("quotas.pictures", json!({"quotas": {"pictures": 5}})),
        ("retention", json!({"retention": 30})),
        ("retention", json!({"retention": [1, 2, 3, 4]})),
        ("retention.models_days", json!({"retention": {"models_days": 5}})),
        ("retention_days", json!({"retention_days": 30})),
        ("name", json!({"name": "other"})),
        ("safety_policy", json!({"safety_policy": "strict"})),
    ] {
        site.change(DEFAULT, &body).await.refuses(422, field);
    }
    site.change(DEFAULT, &json!({"quotas": {"queued_jobs": "1".repeat(1 << 20)}})).await.refuses(413, "");
    site.change("/v1/projects/nowhere", &json!({})).await.refuses(404, "");
    site.change("/v1/projects/a%00b", &json!({})).await.refuses(404, "");
    let shop = site.key_of_default_without_admin().await;
    let answer = site.send(&shop, None, Method::PATCH, DEFAULT, Some(&json!({"retention": {"outputs_days": 1}}))).await;
    answer.refuses(403, "");
    assert_eq!(site.get(&site.admin, None, DEFAULT).await.expect(200), before);
    let log = site.get(&site.admin, None, "/v1/audit").await.expect(200);
    assert!(log["items"].as_array().unwrap().iter().all(|entry| entry["action"] != "project.change"));
}

impl Site {
    async fn key_of_default_without_admin(&self) -> String {
        let made = self.post(&self.admin, None, "/v1/keys", &json!({"name": "usual"})).await.expect(201);
        text(&made["key"])
    }
}
