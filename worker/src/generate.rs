//! The way of a generation: rows → files on the local disk → engine → pictures in storage → succeeded.

use std::path::PathBuf;
use std::time::Duration;

use domain::artifact::NewArtifact;
use domain::generation::{self, GenerationWork};
use domain::input::SourceImage;
use domain::model::ModelFiles;
use domain::preview::{self, Preview};
use domain::storage::StorageKey;
use formats::Scheduler;
use futures::future::try_join_all;
use serde_json::json;

use crate::attempt::Attempt;
use crate::coalescer::Coalescer;
use crate::fetch::{self, Wanted};
use crate::protocol::{Adapter, Base, Generate, Order, Report, RequestId, Source};
use crate::stop::Stop;
use crate::supervisor::Work;

/// Previews are written at most this often.
const PREVIEW_DISTANCE: Duration = Duration::from_millis(500);

struct Picture {
    position: usize,
    path: PathBuf,
    seed: u64,
    width: u32,
    height: u32,
}

/// Does the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (pool, claim) = (&attempt.context.pool, attempt.claim());
    let work = attempt.ask(|| generation::load_work(pool, claim)).await?;
    let order = order(attempt, &work).await?;
    let (pictures, warnings) = make(attempt, order).await?;
    let artifacts = try_join_all(pictures.iter().map(|picture| store(attempt, picture))).await?;
    attempt.ask(|| generation::finish(pool, claim, artifacts.clone(), &warnings)).await
}

async fn order(attempt: &Attempt<'_>, work: &GenerationWork) -> Result<Generate, Stop> {
    let base = Base {
        folder: fetch::checkpoint(attempt, &work.base, "base").await?,
        name: work.base.name.clone(),
        sha256: work.base.sha256.clone(),
    };
    let mut loras = Vec::new();
    for (place, lora) in work.loras.iter().enumerate() {
        loras.push(Adapter {
            path: fetch::one_file(attempt, &lora.model, &format!("lora-{place}")).await?,
            name: lora.model.name.clone(),
            sha256: lora.model.sha256.clone(),
            scale: lora.scale,
        });
    }
    let params = &work.params;
    let vae_approx = match &work.vae_approx {
        Some(decoder) => previews_by(attempt, decoder).await?,
        None => None,
    };
    let source = match (&params.image, params.strength) {
        (Some(image), Some(strength)) => Some(source(attempt, image, params.mask.as_ref(), strength).await?),
        _ => None,
    };
    Ok(Generate {
        request: 0,
        base,
        loras,
        prompt: params.prompt.clone(),
        negative_prompt: params.negative_prompt.clone(),
        num_images: params.num_images as usize,
        num_inference_steps: params.num_inference_steps as usize,
        guidance_scale: params.guidance_scale,
        true_cfg_scale: params.true_cfg_scale,
        width: params.width as usize,
        height: params.height as usize,
        source,
        // The one that FLUX.1 runs with anyway, and the only one that can be asked for there.
        scheduler: params.scheduler.filter(|scheduler| *scheduler != Scheduler::FlowMatchEuler).map(solver),
        clip_skip: params.clip_skip.map(|layers| layers as usize),
        seed: work.seed.unsigned_abs(),
        preview_every: params.preview_every.map(|steps| steps as usize),
        vae_approx,
        output_dir: attempt.subfolder("output")?,
    })
}

/// The decoder of previews on the disk, or nothing if it cannot be had: it may have been deleted meanwhile, and pictures do not
/// depend on it.
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

/// The name that the engine knows a solver by.
fn solver(scheduler: Scheduler) -> String {
    scheduler.title().to_owned()
}

async fn source(
    attempt: &Attempt<'_>,
    image: &SourceImage,
    mask: Option<&SourceImage>,
    strength: f64,
) -> Result<Source, Stop> {
    let folder = attempt.subfolder("source")?;
    let wanted = |picture: &SourceImage, name: &str| Wanted {
        storage_key: picture.storage_key.clone(),
        sha256: picture.sha256.clone(),
        bytes: None,
        target: folder.join(name),
    };
    let image_path = folder.join("image");
    let mask_path = mask.map(|_| folder.join("mask"));
    let all = [Some(wanted(image, "image")), mask.map(|mask| wanted(mask, "mask"))];
    fetch::all(attempt, all.into_iter().flatten().collect()).await?;
    Ok(Source {
        image: image_path,
        image_sha256: image.sha256.clone(),
        mask: mask_path,
        mask_sha256: mask.map(|mask| mask.sha256.clone()),
        strength,
    })
}

async fn make(attempt: &Attempt<'_>, order: Generate) -> Result<(Vec<Picture>, Vec<String>), Stop> {
    let work = Work::new(attempt.patience(), move |request: RequestId| {
        Order::Generate(Box::new(Generate { request, ..order }))
    });
    let mut conversation = attempt.converse(work).await?;
    let progress = attempt.progress();
    let previews = previews(attempt);
    let (mut pictures, mut warnings) = (Vec::new(), Vec::new());
    loop {
        match conversation.next().await? {
            Report::Progress { step, total_steps, .. } => progress.set(step, total_steps, json!({})),
            Report::Preview { step, total_steps, position, path, width, height, .. } => {
                let [step, total_steps, position] = [step, total_steps, position].map(|number| number as i32);
                let [width, height] = [width, height].map(|pixels| pixels as i32);
                // Gone already if the engine has a newer one by now.
                if let Ok(jpeg) = tokio::fs::read(&path).await {
                    previews.set(Preview { step, total_steps, position, width, height, jpeg });
                }
            }
            Report::Image { position, path, seed, width, height, .. } => {
                pictures.push(Picture { position, path, seed, width, height });
            }
            Report::Warning { message, .. } => warnings.push(message),
            Report::Done { .. } => break,
            other => tracing::debug!(?other, "not about pictures"),
        }
    }
    progress.end().await;
    Ok((pictures, warnings))
}

/// Keeps the newest preview for whoever looks.
fn previews(attempt: &Attempt<'_>) -> Coalescer<Preview> {
    let (pool, claim) = (attempt.context.pool.clone(), *attempt.claim());
    Coalescer::start(claim.subject, PREVIEW_DISTANCE, move |preview| {
        let pool = pool.clone();
        async move { preview::record(&pool, &claim, &preview).await }
    })
}

async fn store(attempt: &Attempt<'_>, picture: &Picture) -> Result<NewArtifact, Stop> {
    let claim = attempt.claim();
    let position = picture.position as i32;
    let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position, extension: "png" }.to_string();
    let stored = attempt.store(&picture.path, &key, "image/png").await?;
    Ok(NewArtifact {
        position,
        storage_key: key,
        media_type: "image/png".into(),
        width: i32::try_from(picture.width).ok(),
        height: i32::try_from(picture.height).ok(),
        bytes: stored.bytes,
        sha256: stored.sha256,
        md5: stored.md5,
        seed: i64::try_from(picture.seed).ok(),
    })
}
