//! Stores the files that an engine made, of any kind. The module of each job interprets them.

use domain::artifact::{self, NewArtifact};
use domain::storage::StorageKey;

use crate::attempt::Attempt;
use crate::protocol::Output;
use crate::stop::Stop;

/// Uploads the file to the bucket, under a key of this attempt and with the output's media type.
pub(crate) async fn store(attempt: &Attempt<'_>, output: &Output) -> Result<NewArtifact, Stop> {
    let claim = attempt.claim();
    let position = output.position as i32;
    let extension = artifact::extension(&output.media_type);
    let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position, extension }.to_string();
    let stored = attempt.store(&output.path, &key, &output.media_type).await?;
    let [width, height] = [0, 1].map(|side| output.size.and_then(|size| i32::try_from(size[side]).ok()));
    Ok(NewArtifact {
        kind: output.kind,
        position,
        storage_key: key,
        media_type: output.media_type.clone(),
        width,
        height,
        bytes: stored.bytes,
        sha256: stored.sha256,
        md5: stored.md5,
        seed: output.seed.and_then(|seed| i64::try_from(seed).ok()),
    })
}
