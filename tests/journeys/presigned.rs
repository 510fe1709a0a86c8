//! A presigned URL gives access to one object, for one method, for a limited time, and to nothing else.

use domain::storage::Storage;
use journeys::client::text;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::{milliseconds, seconds};
use reqwest::{Method, Url};
use serde_json::json;

#[tokio::test]
async fn a_url_that_is_not_exactly_the_signed_one_is_refused() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let dataset = client.dataset("discs", &discs(2)).await;
    let examples = client.get(&format!("/v1/datasets/{dataset}")).await.expect(200)["examples"].clone();
    let (url, other) = (text(&examples[0]["url"]), text(&examples[1]["url"]));
    client.download(&url).await;
    client.download(&other).await;

    let refused = async |method: Method, url: &str, why: &str| {
        assert_eq!(client.status(method, url, Vec::new()).await, 403, "{why}: {url}");
    };
    let last = if url.ends_with('0') { '1' } else { '0' };
    refused(Method::GET, &format!("{}{last}", &url[..url.len() - 1]), "last character of the signature").await;
    refused(Method::GET, url.split('?').next().unwrap(), "no signature").await;

    // The signature of one object on the path of another.
    let mut swapped = Url::parse(&url).unwrap();
    swapped.set_path(Url::parse(&other).unwrap().path());
    refused(Method::GET, swapped.as_str(), "another key").await;

    // A later expiry than was signed.
    let mut longer = Url::parse(&url).unwrap();
    let pairs: Vec<_> = longer.query_pairs().into_owned().collect();
    longer.query_pairs_mut().clear().extend_pairs(pairs.iter().map(|(name, value)| {
        if name == "X-Amz-Expires" { (name.as_str(), "604800") } else { (name.as_str(), value.as_str()) }
    }));
    refused(Method::GET, longer.as_str(), "a longer life").await;

    // A URL for reading cannot write or delete.
    refused(Method::PUT, &url, "PUT by a GET URL").await;
    refused(Method::DELETE, &url, "DELETE by a GET URL").await;

    // A URL for writing one object can neither read it nor write another.
    let uploads =
        [client.start_upload(&dataset, &discs(1)[0]).await, client.start_upload(&dataset, &discs(1)[0]).await];
    refused(Method::GET, &text(&uploads[0]["url"]), "GET by a PUT URL").await;
    let mut elsewhere = Url::parse(&text(&uploads[0]["url"])).unwrap();
    elsewhere.set_path(Url::parse(&text(&uploads[1]["url"])).unwrap().path());
    refused(Method::PUT, elsewhere.as_str(), "PUT to another key").await;

    client.download(&url).await;
}

#[tokio::test]
async fn a_url_ends_with_its_time() {
    let stack = Stack::start(Pace::Promised).await;
    let storage = Storage::new(&stack.site.storage()).unwrap();
    let dataset = stack.client.dataset("discs", &discs(1)).await;
    let example = stack.client.get(&format!("/v1/datasets/{dataset}")).await.expect(200)["examples"][0].clone();
    let key: String = sqlx::query_scalar("select storage_key from examples where id::text = $1")
        .bind(text(&example["id"]))
        .fetch_one(stack.ledger.pool())
        .await
        .unwrap();

    let url = storage.presign_get(&key, seconds(2)).await.unwrap().to_string();
    stack.client.download(&url).await;
    tokio::time::sleep(milliseconds(3500)).await;
    assert_eq!(stack.client.status(Method::GET, &url, Vec::new()).await, 403);

    let url = storage.presign_put(&key, "image/png", seconds(1)).await.unwrap().url.to_string();
    tokio::time::sleep(milliseconds(2500)).await;
    assert_eq!(stack.client.status(Method::PUT, &url, b"other bytes".to_vec()).await, 403);
    stack.client.download(&text(&example["url"])).await;
    assert_eq!(stack.client.post("/v1/generations", &json!({})).await.status, 422);
}
