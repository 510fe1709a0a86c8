//! Fetching and loading of models: what is reported, and what ends it.

use domain::job::{Stage, StageProgress};

use super::{BTreeMap, Bed, Caller, Claim, Duration, EventKind, Instant, Job, JobStatus, event, job, model};

/// The stage of each progress event, or the step of those without one.
fn stages(events: &[event::Event]) -> Vec<Result<StageProgress, i64>> {
    let progress = events.iter().filter(|event| event.kind == EventKind::Progress);
    let stage = |data: &serde_json::Value| serde_json::from_value(data.clone());
    progress.map(|event| stage(&event.data).map_err(|_| event.data["step"].as_i64().unwrap())).collect()
}

pub(crate) async fn fetching_is_reported_once_a_second_and_only_if_files_are_missing() {
    let bed = Bed::make().await;
    let base = model::get(&Caller::anonymous(), &bed.pools.api, "ember").await.unwrap();
    let sizes: BTreeMap<_, _> = base.files.iter().map(|file| (&file.sha256, file.bytes.unsigned_abs())).collect();
    let total: u64 = sizes.values().sum();
    // Five seconds for all of it.
    bed.front.set_pause(Duration::from_secs(5) / u32::try_from(total / 1024 + 1).unwrap()).await;
    let worker = bed.work(bed.config());
    let (_, job) = bed.generate("a fox", 4).await;
    let running =
        bed.until(job, "fetching", |job| job.progress.as_ref().is_some_and(|report| report["stage"] == "fetching"));
    let running = running.await;
    assert_eq!((running.step, running.total_steps), (0, 8), "steps are as they were: {running:?}");
    let ended = bed.ended(job).await;
    assert_eq!(ended.status, JobStatus::Succeeded, "{ended:?}");
    let reports = stages(&bed.events(job).await);
    let steps_begin = reports.iter().position(Result::is_err).unwrap();
    let fetching: Vec<_> = reports[..steps_begin].iter().map(|report| report.as_ref().unwrap()).collect();
    assert!((2..=9).contains(&fetching.len()), "{reports:?}");
    for report in &fetching {
        let StageProgress { stage, model, bytes, total_bytes, .. } = report;
        assert_eq!((stage, model.as_deref(), total_bytes), (&Stage::Fetching, Some("ember"), &Some(total)));
        assert!(*bytes <= total);
    }
    assert!(fetching.is_sorted_by_key(|report| report.bytes), "{fetching:?}");
    assert!(fetching.last().unwrap().seconds_left.is_some_and(|left| left < 60), "{fetching:?}");
    assert_eq!(reports[steps_begin], Err(0), "back to steps before the first one");
    assert!(reports[steps_begin..].iter().all(Result::is_err), "{reports:?}");

    // From the cache, however slow storage is.
    let (_, job) = bed.generate("a hare", 4).await;
    assert_eq!(bed.ended(job).await.status, JobStatus::Succeeded);
    assert!(stages(&bed.events(job).await).iter().all(Result::is_err));
    worker.stop().await;
}

pub(crate) async fn a_cancel_takes_effect_while_a_model_is_fetched_or_read() {
    let bed = Bed::make().await;
    let cancel = async |job, stage: &str| {
        bed.until(job, stage, |job| job.progress.as_ref().is_some_and(|report| report["stage"] == stage)).await;
        let began = Instant::now();
        job::cancel(&Caller::anonymous(), &bed.pools.api, job).await.unwrap();
        assert_eq!(bed.ended(job).await.status, JobStatus::Canceled);
        assert!(began.elapsed() < Duration::from_secs(2), "{stage}: canceled after {:?}", began.elapsed());
    };
    bed.front.set_pause(Duration::from_millis(200)).await;
    let worker = bed.work(bed.config());
    cancel(bed.generate("a fox", 2).await.1, "fetching").await;
    bed.front.set_pause(Duration::ZERO).await;
    let once = bed.folder.path().join("read");
    cancel(bed.generate(&format!("read {}", once.display()), 2).await.1, "loading").await;
    let (_, next) = bed.generate("a hare", 2).await;
    assert_eq!(bed.ended(next).await.status, JobStatus::Succeeded);
    worker.stop().await;
}

/// Half a model in memory is worth nothing, and the picture is not finished soon.
pub(crate) async fn a_stopping_worker_does_not_wait_for_weights_that_are_read() {
    let bed = Bed::make().await;
    let worker = bed.work(bed.config());
    let once = bed.folder.path().join("read");
    let (_, job) = bed.generate(&format!("read {}", once.display()), 2).await;
    let loading = |job: &Job| job.progress.as_ref().is_some_and(|report| report["stage"] == "loading");
    let read = bed.until(job, "loading", loading).await;
    let report: StageProgress = serde_json::from_value(read.progress.unwrap()).unwrap();
    assert_eq!((report.model.as_deref(), report.total_bytes), (Some("ember"), Some(300 << 20)));
    assert!(report.seconds_left.is_some_and(|left| (25..=30).contains(&left)), "{report:?}");
    let took = worker.stop().await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(bed.job(job).await.status, JobStatus::Queued);
    let other = bed.work(bed.config_of("other"));
    let ended = bed.ended(job).await;
    assert_eq!((ended.status, ended.failures, ended.crashes), (JobStatus::Succeeded, 0, 0));
    other.stop().await;
}

/// Two attempts at the same job on one worker: the first one's engine must stop reading.
pub(crate) async fn a_lost_lease_ends_the_reading_of_weights() {
    let bed = Bed::make().await;
    let worker = bed.work(bed.config());
    let once = bed.folder.path().join("read");
    let (_, job) = bed.generate(&format!("read {}", once.display()), 2).await;
    let loading = |job: &Job| job.progress.as_ref().is_some_and(|told| told["stage"] == "loading");
    let running = bed.until(job, "loading", loading).await;
    let claim = Claim {
        job,
        subject: job.0,
        kind: running.kind,
        epoch: running.epoch,
        worker: running.worker.unwrap(),
        failures: 0,
        crashes: 0,
        setbacks: 0,
    };
    let began = Instant::now();
    job::release(&bed.pools.lease, &claim, "the worker stops").await.unwrap();
    let ended = bed.ended(job).await;
    assert_eq!((ended.status, ended.epoch), (JobStatus::Succeeded, 2));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    worker.stop().await;
}
