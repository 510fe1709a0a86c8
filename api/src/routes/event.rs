//! `…/events`: what happens to a job, as server-sent events. The rows are authoritative: a client that reconnects with
//! `Last-Event-ID` receives what it missed, and the feed only signals when to read again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::event::{self, Event, Subscription};
use domain::job::{self, KINDS};
use domain::preview::{self, Preview};
use domain::{Caller, JobId};
use futures::StreamExt as _;
use serde_json::{Value, json};
use utoipa::openapi::HttpMethod;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::State;
use crate::extract::Path;
use crate::problem::Result;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx's name for what it should not do.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// A comment is sent after this much silence, so that a broken connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the rows are read, even when no event arrives.
const POLL: Duration = Duration::from_secs(5);
/// Pause after a read that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Most events read at once.
const BATCH: i64 = 200;

/// Follow a job
///
/// Events are named `queued`, `started`, `progress`, `checkpoint`, `warning`, `retrying`, `succeeded`, `failed` or
/// `canceled`; their ids count from 1. The stream ends after one of the last three. To resume after a broken
/// connection, send the last id as `Last-Event-ID`; browsers do so automatically. An id that the job has not reached
/// starts at the first event.
///
/// The data of an event is a JSON object with `created_at` and, by event, started `attempt` · progress `step`,
/// `total_steps`, `loss`, `seconds_per_step`, `stage`, `model`, `bytes`, `total_bytes`, `seconds_left` · checkpoint
/// `step` · warning `message` · retrying `reason`, `message`, `run_at` · failed `class`, `message`. A preview has only
/// `step`, `total_steps`, `position`, `width`, `height` and `image`.
///
/// A generation with `preview_every` also sends `preview` events with the denoiser's current estimate of a picture:
/// `image` is a `data:` URI with a rough JPEG of at most 512 pixels along its longer side, and `position` is the index
/// of the picture. A preview has no id and is not sent again: a client that is slow or reconnects receives the newest
/// one. The progress of a training includes the loss, that of an import the bytes. Before the first step of a
/// generation or training, `stage` is `fetching` while the files of its models are copied to the worker, and `loading`
/// while weights are read. A stage is reported once a second, if it takes longer than a second.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs", operation_id = "follow_job",
    security(("key" = ["read"])),
    params(
        ("id" = Uuid, Path, description = "Id"),
        ("Last-Event-ID" = Option<String>, Header, description = "Number of the last event that was received"),
    ),
    responses(
        (status = 200, description = "The events so far, followed by those to come", body = String,
         content_type = "text/event-stream"),
        (status = 204, description = "The client has received the last event; there are no more"),
    ),
)]
pub(crate) async fn follow(caller: Caller, state: State, Path(id): Path<Uuid>, headers: HeaderMap) -> Result<Response> {
    let job = job::find(&caller, &state.database, id, None).await?;
    stream(caller, state, job, &headers).await
}

/// The same route for each kind, below its own collection, such as `/v1/generations/{id}/events`.
pub(crate) fn follow_each_kind(mut router: OpenApiRouter<State>) -> OpenApiRouter<State> {
    for spec in &KINDS {
        let follow =
            async |caller: Caller, state: State, Path(id): Path<Uuid>, headers: HeaderMap| -> Result<Response> {
                let job = job::find(&caller, &state.database, id, Some(spec.kind)).await?;
                stream(caller, state, job, &headers).await
            };
        let path = format!("/v1/{}/{{id}}/events", spec.collection);
        let mut operation = <__path_follow as utoipa::Path>::operation();
        operation.operation_id = Some(format!("follow_{}", spec.name));
        operation.tags = Some(vec![spec.tag.to_owned()]);
        operation.summary = Some(format!("Follow the job of the {}", spec.name));
        router = router.route(&path, get(follow));
        router.get_openapi_mut().paths.add_path_operation(path, vec![HttpMethod::Get], operation);
    }
    router
}

struct Follower {
    caller: Caller,
    state: State,
    job: JobId,
    /// Number of the last event that was sent.
    sequence: i64,
    fetched: VecDeque<Event>,
    /// Revision of the last preview that was sent.
    revision: i64,
    subscription: Subscription,
    ended: bool,
}

/// The stream, or `None` for a client that has received the last event: `EventSource` reconnects until it gets a 204.
async fn stream(caller: Caller, state: State, job: JobId, headers: &HeaderMap) -> Result<Response> {
    let sequence = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.trim().parse().ok()).unwrap_or(0).max(0);
    // Subscribed before the first read of the rows, so that nothing falls between the two.
    let subscription = state.feed.subscribe();
    let about = job::get(&caller, &state.database, job).await?;
    if about.status.is_terminal() && about.last_sequence == sequence {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // A number that the job has not reached is that of another job, and the client has received nothing of this one.
    let sequence = if sequence > about.last_sequence { 0 } else { sequence };
    let follower =
        Follower { caller, state, job, sequence, fetched: VecDeque::new(), revision: 0, subscription, ended: false };
    let (access, caller) = (follower.state.access.clone(), follower.caller.clone());
    let events = futures::stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let events = events.take_until(access.refuses(caller));
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat"));
    let mut response = stream.into_response();
    // Proxies would keep events back to send, or to compress, many at once.
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

impl Follower {
    /// The next event; `None` after the terminal one, or when the server stops.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.fetched.pop_front() {
                self.sequence = event.sequence;
                self.ended = event.kind.is_terminal();
                return Some(to_sse(&event));
            }
            if self.ended || self.state.stop.is_cancelled() {
                return None;
            }
            match event::after(&self.caller, &self.state.database, self.job, self.sequence, BATCH).await {
                Ok(events) if events.is_empty() => match self.preview_or_end().await {
                    Ok(Some(preview)) => return Some(preview_to_sse(&preview)),
                    Ok(None) if self.ended => return None,
                    Ok(None) => self.wait().await,
                    Err(error) => self.pause(&error).await,
                },
                Ok(events) => self.fetched.extend(events),
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// A preview that was not sent yet, if there is one; `ended` if the client has received the last event already.
    async fn preview_or_end(&mut self) -> domain::Result<Option<Preview>> {
        let news = preview::news(&self.caller, &self.state.database, self.job, self.sequence, self.revision).await?;
        if let Some((revision, preview)) = news.preview {
            self.revision = revision;
            return Ok(Some(preview));
        }
        self.ended = news.over;
        Ok(None)
    }

    async fn wait(&mut self) {
        tokio::select! {
            () = self.subscription.news_of(self.job) => {}
            () = tokio::time::sleep(POLL) => {}
            () = self.state.stop.cancelled() => {}
        }
    }

    async fn pause(&self, error: &domain::Error) {
        tracing::warn!(%error, "events could not be read");
        tokio::time::sleep(PAUSE).await;
    }
}

fn preview_to_sse(preview: &Preview) -> sse::Event {
    let Preview { step, total_steps, position, width, height, jpeg } = preview;
    let image = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
    let data = json!({
        "step": step, "total_steps": total_steps, "position": position,
        "width": width, "height": height, "image": image,
    });
    sse::Event::default().event("preview").data(data.to_string())
}

fn to_sse(event: &Event) -> sse::Event {
    let mut data = match &event.data {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    data.insert(
        "created_at".to_owned(),
        Value::String(event.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
    );
    sse::Event::default()
        .id(event.sequence.to_string())
        .event(event.kind.as_str())
        .data(Value::Object(data).to_string())
}
