//! Runs an export: rows → the LoRA's file on the local disk → the same LoRA in another dialect → storage → succeeded.
//! It needs no engine: a LoRA is small, and the CPU renames and rearranges its tensors.

use diffusion::lora::{self, LoraFile};
use domain::artifact::{ADAPTER_MEDIA_TYPE, OutputKind};
use domain::export;
use domain::job::ErrorClass;

use crate::attempt::Attempt;
use crate::protocol::Output;
use crate::stop::Stop;
use crate::{engine, fetch, output};

/// Runs the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (context, claim) = (attempt.context, attempt.claim());
    let work = attempt.ask(|| export::load_work(&context.pool, claim)).await?;
    let source = fetch::adapter(attempt, &work.model, "lora").await?;
    let made = attempt.folder().join("export.safetensors");
    let converting = tokio::task::spawn_blocking({
        let made = made.clone();
        let name = work.model.name.clone();
        move || lora::export(&LoraFile::open_as(&source, &name)?, work.format, work.dtype, &made)
    });
    let failed = |class, message: String| Stop::Failed(class, message);
    attempt
        .prepare(async {
            let converted = converting.await;
            let converted =
                converted.map_err(|error| failed(ErrorClass::Internal, format!("the conversion panicked: {error}")))?;
            converted.map_err(|error| Stop::of_engine(engine::class(&error), error.to_string()))
        })
        .await?;
    let output = Output {
        position: 0,
        path: made,
        kind: OutputKind::Adapter,
        media_type: ADAPTER_MEDIA_TYPE.into(),
        size: None,
        seed: None,
    };
    let artifact = output::store(attempt, &output).await?;
    attempt.ask(|| export::finish(&context.pool, claim, &artifact)).await
}
