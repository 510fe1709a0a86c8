//! The way of an export: rows → the LoRA's file on the local disk → the same in another dialect → storage → succeeded. It needs no engine: a
//! LoRA is small, and names and factors are rearranged on the CPU.

use diffusion::lora::{self, LoraFile};
use domain::artifact::NewArtifact;
use domain::export;
use domain::job::ErrorClass;
use domain::storage::StorageKey;

use crate::attempt::Attempt;
use crate::stop::Stop;
use crate::{engine, fetch};

const MEDIA_TYPE: &str = "application/octet-stream";

/// Does the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (context, claim) = (attempt.context, attempt.claim());
    let work = attempt.ask(|| export::load_work(&context.pool, claim)).await?;
    let source = fetch::one_file(attempt, &work.model, "lora").await?;
    let made = attempt.folder().join("export.safetensors");
    let converting = tokio::task::spawn_blocking({
        let made = made.clone();
        move || lora::export(&LoraFile::open(&source)?, work.format, work.dtype, &made)
    });
    let failed = |class, message: String| Stop::Failed(class, message);
    attempt
        .prepare(async {
            let converted = converting.await;
            let converted =
                converted.map_err(|error| failed(ErrorClass::Internal, format!("the conversion panicked: {error}")))?;
            converted.map_err(|error| failed(engine::class(&error).into(), error.to_string()))
        })
        .await?;
    let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "safetensors" };
    let key = key.to_string();
    let stored = attempt.store(&made, &key, MEDIA_TYPE).await?;
    let artifact = NewArtifact {
        position: 0,
        storage_key: key,
        media_type: MEDIA_TYPE.to_owned(),
        width: None,
        height: None,
        bytes: stored.bytes,
        sha256: stored.sha256,
        md5: stored.md5,
        seed: None,
    };
    attempt.ask(|| export::finish(&context.pool, claim, &artifact)).await
}
