//! Events over SSE: in order, without a gap, resumable by `Last-Event-ID`, also across a restart of the API.

use journeys::client::text;
use journeys::sse::{Event, Events};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

fn assert_complete(events: &[Event], first: i64) {
    let ids: Vec<_> = events.iter().map(|event| event.id.expect("every event has an id")).collect();
    assert_eq!(ids, (first..first + ids.len() as i64).collect::<Vec<_>>(), "in order, no gap, no double");
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke() {
    let mut stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "step_delay_ms=400");
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 20, "width": 32, "height": 32});
    let generation = stack.client.generate(&request).await;
    let path = text(&generation["urls"]["events"]);

    // Live: the first events arrive while the job runs.
    let mut stream = Events::open(&stack.client, &path, None).await;
    let mut seen = Vec::new();
    while !seen.iter().any(|event: &Event| event.kind == "progress") {
        seen.push(stream.next(seconds(60)).await.unwrap_or_else(|| panic!("the stream is open after {seen:#?}")));
    }
    drop(stream);

    // A client that lost its connection.
    let mut stream = Events::open(&stack.client, &path, seen.last().unwrap().id).await;
    seen.push(stream.next(seconds(30)).await.expect("the stream is open"));

    // A server that was killed.
    stack.api().kill();
    seen.extend(stream.rest(seconds(5)).await);
    stack.restart_api().await;
    let mut stream = Events::open(&stack.client, &path, seen.last().unwrap().id).await;
    seen.extend(stream.rest(seconds(60)).await);

    assert_complete(&seen, 1);
    assert_eq!(seen.first().unwrap().kind, "queued");
    assert_eq!(seen.last().unwrap().kind, "succeeded", "the stream ends after the terminal event: {seen:#?}");
    let steps: Vec<_> =
        seen.iter().filter(|event| event.kind == "progress").filter_map(|event| event.data["step"].as_i64()).collect();
    assert!(steps.is_sorted() && steps.len() >= 2, "{steps:?}");

    // After the end, all events or the remaining ones are sent again, and the stream ends.
    let again = Events::open(&stack.client, &path, None).await.rest(seconds(10)).await;
    assert_eq!(
        again.iter().map(|event| (event.id, &event.kind)).collect::<Vec<_>>(),
        seen.iter().map(|event| (event.id, &event.kind)).collect::<Vec<_>>()
    );
    let rest = Events::open(&stack.client, &path, Some(3)).await.rest(seconds(10)).await;
    assert_complete(&rest, 4);
    let last = seen.last().unwrap().id.expect("a number").to_string();
    let request = stack.client.request(reqwest::Method::GET, &path).header("last-event-id", last);
    assert_eq!(stack.client.send(request).await.status, 204, "there will be no more");
    stack.ledger.audit().await;
}
