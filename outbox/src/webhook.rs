//! Posts an event to a webhook, signed after Standard Webhooks (<https://www.standardwebhooks.com>).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use domain::delivery::signing::SigningSecret;
use domain::delivery::webhook::{self, Post, WebhookEvent};
use domain::delivery::{Answer, Claimed, Outcome};
use domain::{DeliveryId, Error};
use hmac::{Hmac, Mac as _};
use http::{StatusCode, header};
use outgoing::GuardError;
use sha2::Sha256;

use crate::{Outbox, Sent, again, failed, said};

/// Between two tries: a first one and seven more.
pub(crate) const PAUSES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(24),
];
/// Limit of a request.
const LIMIT: Duration = Duration::from_secs(15);
const AGENT: &str = concat!("Pyrograph/", env!("CARGO_PKG_VERSION"));

/// Makes one try. Errors: those of the database; `LeaseLost` also if the webhook was deleted meanwhile.
pub(crate) async fn send(outbox: &Outbox, claimed: &Claimed) -> Result<Sent, Error> {
    let Some(post) = webhook::load(&outbox.pool, claimed).await? else {
        return Ok(failed("The webhook is disabled, or its URL is forgotten."));
    };
    if post.event != WebhookEvent::Progress {
        return send_once(outbox, claimed, &post).await;
    }
    if claimed.attempt > 1 {
        return Ok(failed("Progress is not sent again."));
    }
    Ok(match send_once(outbox, claimed, &post).await? {
        (Outcome::Retry(_), answer) => (Outcome::Failed, answer),
        sent => sent,
    })
}

async fn send_once(outbox: &Outbox, claimed: &Claimed, post: &Post) -> Result<Sent, Error> {
    let client = match outbox.clients.client(post.url.reveal()).await {
        Ok(client) => client,
        Err(GuardError::Forbidden(why)) => return Ok(failed(why)),
        Err(GuardError::Unknown(_)) => return Ok(again(claimed, Answer::error("The host of the URL was not found."))),
    };
    let (limit, timestamp) = (outbox.limit.min(LIMIT), Utc::now().timestamp());
    let request = client
        .post(post.url.reveal().clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, AGENT)
        .header("webhook-id", claimed.id.to_string())
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signatures(&post.secrets, claimed.id, timestamp, &post.body)?)
        .body(post.body.clone())
        .timeout(limit);
    let status = match request.send().await {
        Ok(response) => response.status(),
        Err(error) => return Ok(again(claimed, Answer::error(said(&error, limit)))),
    };
    let answer = Answer { status_code: Some(status.as_u16()), error: None };
    if status.is_success() {
        return Ok((Outcome::Delivered, answer));
    }
    let answer = Answer { error: Some(format!("The server answered {status}.")), ..answer };
    if status == StatusCode::GONE {
        webhook::disable_gone(&outbox.pool, claimed, post).await?;
        return Ok((Outcome::Failed, answer));
    }
    Ok(again(claimed, answer))
}

/// One signature for each secret, over id, time in seconds, and body.
fn signatures(secrets: &[SigningSecret], id: DeliveryId, timestamp: i64, body: &str) -> Result<String, Error> {
    let signature = |secret: &SigningSecret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).map_err(Error::internal)?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    };
    Ok(secrets.iter().map(signature).collect::<Result<Vec<_>, Error>>()?.join(" "))
}
