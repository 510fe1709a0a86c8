//! `…/events`: what happens to a job, as server-sent events. The rows are the truth: a client that comes back with
//! `Last-Event-ID` is told what it missed, and the feed only says when to look again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::event::{self, Event, Subscription};
use domain::preview::{self, Preview};
use domain::{ExportId, GenerationId, ImportId, JobId, TrainingId, export, generation, import, job, training};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::State;
use crate::extract::Path;
use crate::problem::Result;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A comment is sent after this much silence, so that a connection that broke is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The rows are looked at this often, whatever the feed says.
const POLL: Duration = Duration::from_secs(5);
/// Pause after the database did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Events fetched at once.
const BATCH: i64 = 200;

/// One event of the stream.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what `to_sse` and `preview_to_sse` write")]
pub struct ServerSentEvent {
    /// Number of the event, from 1; a preview has none.
    #[schema(pattern = "^[1-9][0-9]*$")]
    id: Option<String>,
    /// `queued`, `started`, `progress`, `checkpoint`, `preview`, `warning`, `retrying`, `succeeded`, `failed` or `canceled`.
    #[schema(pattern = "^[a-z]+$", example = "progress")]
    event: String,
    /// A JSON object: `created_at`, and by kind started `attempt` · progress `step`, `total_steps`, `loss`, `bytes`, `total_bytes` · checkpoint `step` ·
    /// warning `message` · retrying `reason`, `message`, `run_at` · failed `class`, `message`; of a preview `step`, `total_steps`, `position`, `width`,
    /// `height`, `image` alone.
    #[schema(example = r#"{"step":3,"total_steps":20,"created_at":"2026-01-01T00:00:00Z"}"#)]
    data: String,
}

/// Follow a generation
///
/// Events are named `queued`, `started`, `progress`, `warning`, `retrying`, `succeeded`, `failed` or `canceled`; their ids count
/// from 1, their data is a JSON object. The stream ends after the last of the three. To go on after a break, send the last id
/// as `Last-Event-ID`, as browsers do by themselves.
///
/// A generation with `preview_every` shows its pictures at work as `preview` events: `image` is a `data:` URI with a rough JPEG of at
/// most 512 pixels along its longer side, `position` tells of which picture. They have no id and are not told again: a client that
/// is late, or comes back, gets the newest.
#[utoipa::path(
    get, path = "/v1/generations/{id}/events", tag = "generations", operation_id = "follow_generation",
    params(
        ("id" = GenerationId, Path, description = "Id of the generation"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events so far, and then those to come", body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "The last event was seen: there will be no more"),
    ),
)]
pub async fn of_generation(state: State, Path(id): Path<GenerationId>, headers: HeaderMap) -> Result<Response> {
    let (job, previews) = generation::job_and_previews(&state.pool, id).await?;
    follow(state, job, previews, &headers).await
}

/// Follow a training
///
/// As for a generation; there are `checkpoint` events besides, and `progress` tells the loss.
#[utoipa::path(
    get, path = "/v1/trainings/{id}/events", tag = "trainings", operation_id = "follow_training",
    params(
        ("id" = TrainingId, Path, description = "Id of the training"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events so far, and then those to come", body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "The last event was seen: there will be no more"),
    ),
)]
pub async fn of_training(state: State, Path(id): Path<TrainingId>, headers: HeaderMap) -> Result<Response> {
    let job = training::job_id(&state.pool, id).await?;
    follow(state, job, false, &headers).await
}

/// Follow an import
///
/// As for a generation; `progress` tells the bytes.
#[utoipa::path(
    get, path = "/v1/imports/{id}/events", tag = "models", operation_id = "follow_import",
    params(
        ("id" = ImportId, Path, description = "Id of the import"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events so far, and then those to come", body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "The last event was seen: there will be no more"),
    ),
)]
pub async fn of_import(state: State, Path(id): Path<ImportId>, headers: HeaderMap) -> Result<Response> {
    let job = import::job_id(&state.pool, id).await?;
    follow(state, job, false, &headers).await
}

/// Follow an export
///
/// As for a generation.
#[utoipa::path(
    get, path = "/v1/exports/{id}/events", tag = "models", operation_id = "follow_export",
    params(
        ("id" = ExportId, Path, description = "Id of the export"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events so far, and then those to come", body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "The last event was seen: there will be no more"),
    ),
)]
pub async fn of_export(state: State, Path(id): Path<ExportId>, headers: HeaderMap) -> Result<Response> {
    let job = export::job_id(&state.pool, id).await?;
    follow(state, job, false, &headers).await
}

struct Follower {
    state: State,
    job: JobId,
    /// Of the last event that was sent.
    sequence: i64,
    fetched: VecDeque<Event>,
    /// Of the last preview that was sent, if there may be some.
    revision: Option<i64>,
    subscription: Subscription,
    ended: bool,
}

/// The stream, or nothing for a client that has seen its end: `EventSource` comes back until it is told 204.
async fn follow(state: State, job: JobId, previews: bool, headers: &HeaderMap) -> Result<Response> {
    let sequence = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.trim().parse().ok()).unwrap_or(0).max(0);
    // Subscribed before the first look at the rows, so that nothing falls between the two.
    let subscription = state.feed.subscribe();
    let revision = previews.then_some(0);
    let follower = Follower { state, job, sequence, fetched: VecDeque::new(), revision, subscription, ended: false };
    if follower.is_over().await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let events = futures::stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")).into_response())
}

impl Follower {
    /// The next event; none after the terminal one, or when the server stops.
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
            match event::after(&self.state.pool, self.job, self.sequence, BATCH).await {
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

    /// A preview that was not sent, or none; `ended` if the client has seen the end already.
    async fn preview_or_end(&mut self) -> domain::Result<Option<Preview>> {
        if let Some(revision) = self.revision
            && let Some((newer, preview)) = preview::after(&self.state.pool, self.job, revision).await?
        {
            self.revision = Some(newer);
            return Ok(Some(preview));
        }
        self.ended = self.is_over().await?;
        Ok(None)
    }

    /// Whether the client has seen the end already.
    async fn is_over(&self) -> domain::Result<bool> {
        let job = job::get(&self.state.pool, self.job).await?;
        Ok(job.status.is_terminal() && job.last_sequence <= self.sequence)
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
    let data = json!({ "step": step, "total_steps": total_steps, "position": position, "width": width, "height": height, "image": image });
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
