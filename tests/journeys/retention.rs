//! Retention from the command line: what goes is shown first, and a running server deletes it.

use journeys::client::text;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack, run};
use journeys::wait::{seconds, until};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::json;

#[tokio::test]
async fn a_retention_is_shown_before_it_is_set() {
    let mut stack = Stack::start(Pace::Promised).await;
    let photo = discs(1).remove(0);
    let form = Form::new().part("image", Part::bytes(photo.bytes.clone()).file_name("a.png"));
    let input = stack.client.send(stack.client.request(Method::POST, "/v1/inputs").multipart(form)).await.expect(201);
    let path = format!("/v1/inputs/{}", text(&input["id"]));
    for statement in [
        "alter table inputs disable trigger user",
        "update inputs set created_at = created_at - interval '31 days'",
        "alter table inputs enable trigger user",
    ] {
        sqlx::query(statement).execute(stack.ledger.pool()).await.unwrap();
    }

    let keep = ["projects", "update", "default", "--keep-inputs", "30d"];
    let would = stack.operator_json(&[&keep[..], &["--dry-run", "--json"]].concat());
    let nothing = json!({"count": 0, "bytes": 0});
    let one = json!({"count": 1, "bytes": photo.bytes.len()});
    let expected = json!({"outputs": nothing, "inputs": one, "events": nothing, "failed_jobs": nothing});
    assert_eq!(would, expected);
    // Without a terminal nobody can be asked.
    let refused = run(&stack.site, &[], &keep);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("this deletes 1 input (") && stderr.contains("--yes"), "{stderr}");
    stack.restart_api().await;
    assert_eq!(stack.client.get(&path).await.status, 200);

    let changed = stack.operator_json(&[&keep[..], &["--yes", "--json"]].concat());
    assert_eq!(changed["retention"]["inputs_days"], 30);
    let listed = run(&stack.site, &[], &["projects", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("inputs=30d"), "{listed:?}");
    // A server looks at its start, and then every five minutes.
    stack.restart_api().await;
    until(seconds(30), "the input goes", || async { (stack.client.get(&path).await.status == 404).then_some(()) })
        .await;
    stack.audit_bucket().await;
}
