//! A bucket that fails: uploads that are refused, stalled or lose their reply, and an outage of ten minutes.

use std::time::Instant;

use futures::{StreamExt, stream};
use journeys::client::text;
use journeys::faulty_s3::FaultyS3;
use journeys::ground::Site;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

/// Jobs with four pictures each.
const JOBS: usize = 125;

async fn faulty() -> (Stack, FaultyS3) {
    let site = Site::create().await;
    let bucket = FaultyS3::before(&site.storage().endpoint).await;
    let stack = Stack::start_on(site, Pace::Promised, &[("PYROGRAPH_S3_ENDPOINT", &bucket.endpoint)]).await;
    (stack, bucket)
}

fn request(seed: usize) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_images": 4, "num_inference_steps": 1, "width": 32, "height": 32,
           "seed": seed})
}

/// The bucket has the pictures and the model, and nothing that no row names.
async fn holds_exactly_what_rows_name(stack: &Stack) {
    stack.ledger.audit().await;
    assert_eq!(stack.site.keys(), stack.ledger.objects_of_rows().await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes: just chaos 25"]
async fn row_25_a_bucket_that_fails_costs_no_picture() {
    let (stack, bucket) = faulty().await;
    let _workers = [stack.worker("one", ""), stack.worker("two", "")];
    bucket.fail(20, 10, 5);
    let since = Instant::now();
    let create = async |seed: usize| stack.client.generate(&request(1000 * seed)).await;
    let made: Vec<Value> = stream::iter(0..JOBS).then(create).collect().await;
    for job in &made {
        let done = stack.client.succeeded(job, seconds(1200)).await;
        assert_eq!(done["artifacts"].as_array().unwrap().len(), 4);
    }
    bucket.fail(0, 0, 0);
    let (uploads, faults) = bucket.count();
    println!("{} pictures, {uploads} uploads, {faults} faults, {:.0?}", 4 * JOBS, since.elapsed());
    assert!(uploads >= 500 && faults >= 100, "{uploads} uploads, {faults} faults");
    assert_eq!(stack.ledger.count("artifacts").await, 4 * JOBS as i64);
    holds_exactly_what_rows_name(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes twelve minutes: just chaos 26"]
async fn row_26_an_outage_of_ten_minutes_repeats_no_work() {
    let (stack, bucket) = faulty().await;
    let _worker = stack.worker("worker", "");
    let first = stack.client.generate(&request(1)).await;
    stack.client.succeeded(&first, seconds(120)).await;
    bucket.fail(100, 0, 0);
    let waiting = stack.client.generate(&request(2)).await;
    until(seconds(120), "the pictures are to be stored", || async { (bucket.count().1 >= 4).then_some(()) }).await;
    bucket.set_away(true);
    let create = async |seed: usize| stack.client.generate(&request(seed)).await;
    let later: Vec<Value> = stream::iter(3..6).then(create).collect().await;
    tokio::time::sleep(seconds(600)).await;
    bucket.fail(0, 0, 0);
    bucket.set_away(false);
    let since = Instant::now();
    stack.client.succeeded(&waiting, seconds(60)).await;
    println!("the pictures that waited are there after {:.1?}", since.elapsed());
    for job in &later {
        stack.client.succeeded(job, seconds(60)).await;
    }
    println!("the jobs behind them have succeeded after {:.1?}", since.elapsed());
    assert!(since.elapsed() <= seconds(60), "{:?}", since.elapsed());
    for job in std::iter::once(&waiting).chain(&later) {
        let attempts = stack.ledger.attempts(&text(&job["id"])).await;
        assert!(attempts.iter().all(|attempt| attempt.outcome.as_deref() != Some("failed")), "{attempts:?}");
    }
    assert_eq!(stack.ledger.attempts(&text(&waiting["id"])).await.len(), 1, "nothing is computed again");
    holds_exactly_what_rows_name(&stack).await;
}
