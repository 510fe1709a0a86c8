//! Runs a generation: rows → files on the local disk → engine → pictures in storage → succeeded.

use std::path::PathBuf;
use std::time::Duration;

use domain::generation::{self, GenerationWork};
use domain::input::SourceImage;
use domain::model::ModelFiles;
use domain::preview::{self, Preview};
use futures::future::try_join_all;
use serde_json::json;

use crate::attempt::Attempt;
use crate::coalescer::Coalescer;
use crate::fetch::{self, Wanted};
use crate::fit;
use crate::output;
use crate::protocol::{Adapter, Base, Generate, LocalPicture, Order, Output, Report, RequestId};
use crate::stop::Stop;
use crate::supervisor::Work;

/// Minimum time between two writes of previews.
const PREVIEW_DISTANCE: Duration = Duration::from_millis(500);

/// Runs the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (pool, claim) = (&attempt.context.pool, attempt.claim());
    let work = attempt.ask(|| generation::load_work(pool, claim)).await?;
    let order = order(attempt, &work).await?;
    let (outputs, reported) = make(attempt, order).await?;
    let warnings = work.warnings(reported);
    let artifacts = try_join_all(outputs.iter().map(|output| output::store(attempt, output))).await?;
    attempt.ask(|| generation::finish(pool, claim, artifacts.clone(), &warnings)).await
}

async fn order(attempt: &Attempt<'_>, work: &GenerationWork) -> Result<Generate, Stop> {
    fit::picture(attempt, work)?;
    let folder = fetch::checkpoint(attempt, &work.base, "base").await?;
    fit::learn(attempt, &work.base, &folder).await;
    let base = Base { folder, name: work.base.name.clone(), sha256: work.base.sha256.clone() };
    let mut loras = Vec::new();
    for (place, lora) in work.loras.iter().enumerate() {
        loras.push(Adapter {
            path: fetch::adapter(attempt, &lora.model, &format!("lora-{place}")).await?,
            name: lora.model.name.clone(),
            sha256: lora.model.sha256.clone(),
            scale: lora.scale,
            text_encoder_scale: lora.text_encoder_scale,
        });
    }
    let params = &work.params;
    let vae_approx = match &work.vae_approx {
        Some(decoder) => previews_by(attempt, decoder).await?,
        None => None,
    };
    let [image, mask] = pictures(attempt, [&params.image, &params.mask]).await?;
    Ok(Generate {
        request: 0,
        base,
        loras,
        params: params.clone().with_pictures(image, mask),
        seed: work.seed.unsigned_abs(),
        vae_approx,
        output_dir: attempt.subfolder("output")?,
    })
}

/// The preview decoder on the local disk; `None` if it cannot be fetched: it may have been deleted meanwhile, and
/// pictures do not depend on it.
async fn previews_by(attempt: &Attempt<'_>, decoder: &ModelFiles) -> Result<Option<PathBuf>, Stop> {
    match fetch::one_file(attempt, decoder, "vae-approx").await {
        Ok(file) => Ok(Some(file)),
        Err(Stop::Failed(class, message)) => {
            tracing::warn!(?class, message, model = decoder.name, "previews without their decoder");
            Ok(None)
        }
        Err(stop) => Err(stop),
    }
}

/// Fetches the pictures that the generation starts from: image and mask.
async fn pictures(attempt: &Attempt<'_>, stored: [&Option<SourceImage>; 2]) -> Result<[Option<LocalPicture>; 2], Stop> {
    if stored[0].is_none() {
        return Ok([None, None]);
    }
    let folder = attempt.subfolder("source")?;
    let mut wanted = Vec::new();
    let mut local = |picture: &Option<SourceImage>, name: &str| {
        let SourceImage { storage_key, sha256, .. } = picture.clone()?;
        let path = folder.join(name);
        attempt.labels.add(&path, name);
        let (target, what) = (path.clone(), format!("the picture `{name}`"));
        wanted.push(Wanted { name: what, storage_key, sha256: sha256.clone(), bytes: None, target });
        Some(LocalPicture { path, sha256 })
    };
    let pictures = [local(stored[0], "image"), local(stored[1], "mask")];
    fetch::all(attempt, wanted).await?;
    Ok(pictures)
}

async fn make(attempt: &Attempt<'_>, order: Generate) -> Result<(Vec<Output>, Vec<String>), Stop> {
    let model = order.base.name.clone();
    let work = Work::new(attempt.patience(), move |request: RequestId| {
        Order::Generate(Box::new(Generate { request, ..order }))
    });
    let mut conversation = attempt.converse(work).await?;
    let progress = attempt.progress();
    let previews = previews(attempt);
    let (mut outputs, mut warnings) = (Vec::new(), Vec::new());
    loop {
        match conversation.next().await? {
            Report::Reading { bytes, total_bytes, seconds, .. } => progress.read(&model, bytes, total_bytes, seconds),
            Report::Progress { step, total_steps, .. } => progress.set(step, total_steps, json!({})),
            Report::Preview { step, total_steps, position, path, width, height, .. } => {
                let [step, total_steps, position] = [step, total_steps, position].map(|number| number as i32);
                let [width, height] = [width, height].map(|pixels| pixels as i32);
                // Already deleted if the engine has written a newer one.
                if let Ok(jpeg) = tokio::fs::read(&path).await {
                    previews.set(Preview { step, total_steps, position, width, height, jpeg });
                }
            }
            Report::Output { output, .. } => outputs.push(output),
            Report::Warning { message, .. } => warnings.push(message),
            Report::Done { .. } => break,
            other => tracing::debug!(?other, "a report that a generation does not use"),
        }
    }
    progress.end().await;
    Ok((outputs, warnings))
}

/// Stores the newest preview for viewers.
fn previews(attempt: &Attempt<'_>) -> Coalescer<Preview> {
    let (pool, claim) = (attempt.context.pool.clone(), *attempt.claim());
    Coalescer::start(claim.subject, PREVIEW_DISTANCE, move |preview| {
        let pool = pool.clone();
        async move { preview::record(&pool, &claim, &preview).await }
    })
}
