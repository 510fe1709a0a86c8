//! Uploads a picture to a URL of the caller: the committed bytes, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use domain::Error;
use domain::delivery::upload::{self, Upload};
use domain::delivery::{Answer, Claimed, Outcome};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use outgoing::GuardError;
use sha2::{Digest, Sha256};

use crate::{Outbox, Sent, again, failed, said};

/// Between two tries: a first one and three more.
pub(crate) const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// After trouble with our own bucket.
const SETBACK: Duration = Duration::from_secs(10);

/// Makes one try. Errors: those of the database; `LeaseLost` also if the picture was deleted meanwhile.
pub(crate) async fn send(outbox: &Outbox, claimed: &Claimed) -> Result<Sent, Error> {
    let upload = upload::load(&outbox.pool, claimed).await?;
    let bytes = match outbox.storage.get(&upload.storage_key).await {
        Ok(bytes) => bytes,
        Err(Error::NotFound { .. }) => return Ok(failed("The picture is not in the bucket any more.")),
        Err(error) => {
            tracing::debug!(%error, "a picture could not be read; its delivery waits");
            return Ok((Outcome::Later(SETBACK), Answer::error("The bucket cannot be reached.")));
        }
    };
    if hex::encode(Sha256::digest(&bytes)) != upload.sha256 {
        tracing::error!(key = upload.storage_key, "an object is not the one that was stored");
        return Ok(failed("The picture in the bucket is not the one that was made."));
    }
    let client = match outbox.clients.client(upload.url.reveal()).await {
        Ok(client) => client,
        Err(GuardError::Forbidden(why)) => return Ok(failed(why)),
        Err(GuardError::Unknown(_)) => return Ok(again(claimed, Answer::error("The host of the URL was not found."))),
    };
    let url = upload.url.reveal().clone();
    let request = client.put(url).headers(headers(&upload)).body(Bytes::clone(&bytes)).timeout(outbox.limit);
    let status = match request.send().await {
        Ok(response) => response.status(),
        Err(error) => return Ok(again(claimed, Answer::error(said(&error, outbox.limit)))),
    };
    let answer = Answer { status_code: Some(status.as_u16()), error: None };
    if status.is_success() {
        return Ok((Outcome::Delivered, answer));
    }
    let answer = Answer { error: Some(format!("The server answered {status}.")), ..answer };
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Ok(again(claimed, answer));
    }
    Ok((Outcome::Failed, answer))
}

/// Those that the request stated, with the media type unless it stated another one.
fn headers(upload: &Upload) -> HeaderMap {
    let stated = upload.headers.iter().filter_map(|(name, value)| {
        Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
    });
    let mut headers: HeaderMap = stated.collect();
    if let Ok(media_type) = HeaderValue::try_from(upload.media_type.as_str()) {
        headers.entry(header::CONTENT_TYPE).or_insert(media_type);
    }
    headers
}
