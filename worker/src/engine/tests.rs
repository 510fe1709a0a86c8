//! Runs the engine over a pair of pipes, with the tiny random FLUX model of `diffusion`'s reference tests.

use std::io::{PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use domain::artifact::OutputKind;
use requests::{GenerationParams, OutputFormat, TrainingParams};

use super::*;
use crate::protocol::{Adapter, Base, Example, Generate, Output, Train};

struct Bench {
    orders: PipeWriter,
    reports: PipeReader,
    orphaned: mpsc::Receiver<()>,
    serving: JoinHandle<ExitCode>,
    folder: tempfile::TempDir,
    requests: u64,
    /// The loaded models that the engine last reported.
    resident: Vec<Resident>,
}

fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../diffusion/tests/goldens").join(path)
}

impl Bench {
    fn start(fault: &str) -> Self {
        Self::within(1 << 30, WeightChoice::Auto, fault)
    }

    /// An engine with this budget.
    fn within(bytes: u64, weights: WeightChoice, fault: &str) -> Self {
        let (input, orders) = std::io::pipe().unwrap();
        let (reports, output) = std::io::pipe().unwrap();
        let (gone, orphaned) = mpsc::channel();
        let fault = Some(fault.parse().unwrap());
        let config = EngineConfig {
            device: DeviceChoice::Cpu,
            kernels: None,
            vram_budget: Some(bytes),
            weights,
            offload: Offload::Auto,
            fault,
        };
        let serving = std::thread::spawn(move || serve(input, output, config, move || gone.send(()).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Self { orders, reports, orphaned, serving, folder, requests: 0, resident: Vec::new() };
        bench.say(&Order::Hello { version: PROTOCOL_VERSION });
        assert!(matches!(bench.hear(), Report::Ready { version: PROTOCOL_VERSION, .. }));
        bench
    }

    fn say(&mut self, order: &Order) {
        protocol::write(&mut self.orders, order).unwrap();
    }

    fn hear(&mut self) -> Report {
        loop {
            match protocol::read(&mut self.reports).unwrap().expect("the engine ended") {
                Report::Resident { models } => {
                    assert_ne!(models, self.resident, "told only when it changes");
                    self.resident = models;
                }
                other => return other,
            }
        }
    }

    /// All reports of a request; `at_step` may send an order when a step is reported.
    fn follow(&mut self, request: RequestId, at_step: impl Fn(usize) -> Option<Order>) -> Vec<Report> {
        let mut heard = Vec::new();
        loop {
            let report = self.hear();
            assert_eq!(report.request(), Some(request));
            if let Report::Progress { step, .. } = report
                && let Some(order) = at_step(step)
            {
                self.say(&order);
            }
            let last = report.is_last();
            heard.push(report);
            if last {
                return heard;
            }
        }
    }

    fn output(&mut self) -> (RequestId, PathBuf) {
        self.requests += 1;
        let output = self.folder.path().join(self.requests.to_string());
        std::fs::create_dir(&output).unwrap();
        (self.requests, output)
    }

    fn picture_order(&mut self, loras: &[(&Path, f64)]) -> Generate {
        let (request, output_dir) = self.output();
        Generate {
            request,
            base: base(),
            loras: loras.iter().map(|(path, scale)| adapter(path, *scale)).collect(),
            params: GenerationParams {
                num_images: 2,
                guidance_scale: 3.5,
                ..GenerationParams::new("a fox", 2, [32, 32])
            },
            seed: 7,
            vae_approx: None,
            output_dir,
        }
    }

    /// The bytes of both pictures.
    fn pictures(&mut self, loras: &[(&Path, f64)]) -> [Vec<u8>; 2] {
        let order = self.picture_order(loras);
        self.say(&Order::Generate(Box::new(order.clone())));
        let reports = self.follow(order.request, |_| None);
        assert!(matches!(reports.last(), Some(Report::Done { .. })), "{reports:?}");
        let paths: Vec<_> = reports
            .iter()
            .filter_map(|report| match report {
                Report::Output { output: Output { position, path, seed, size, media_type, .. }, .. } => {
                    assert_eq!(*seed, Some(7 + *position as u64));
                    assert_eq!((*size, media_type.as_str()), (Some([32, 32]), "image/png"));
                    Some(path)
                }
                _ => None,
            })
            .collect();
        assert_eq!(paths.len(), 2);
        [std::fs::read(paths[0]).unwrap(), std::fs::read(paths[1]).unwrap()]
    }

    fn training_order(&mut self, resume: Option<PathBuf>) -> Train {
        let (request, output_dir) = self.output();
        let image = self.folder.path().join("example.png");
        if !image.exists() {
            let pixels: Vec<u8> = (0..32 * 32 * 3).map(|index| (index * 7 % 256) as u8).collect();
            let mut png = Vec::new();
            let mut encoder = png::Encoder::new(&mut png, 32, 32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            std::fs::write(&image, png).unwrap();
        }
        Train {
            request,
            base: base(),
            examples: vec![Example { path: image, caption: "a fox".into() }],
            params: TrainingParams {
                trigger_word: Some("ink".into()),
                steps: 4,
                rank: 2,
                alpha: 2.0,
                learning_rate: 1e-2,
                batch_size: 1,
                resolution: 32,
                seed: 3,
            },
            resume,
            output_dir,
            checkpoint_every: 2,
            metadata: [("modelspec.title".to_owned(), "ink".to_owned())].into(),
        }
    }
}

fn base() -> Base {
    Base { folder: goldens("flux-tiny"), name: "tiny".into(), sha256: "aa".repeat(32) }
}

fn adapter(path: &Path, scale: f64) -> Adapter {
    Adapter {
        path: path.into(),
        name: "ink".into(),
        sha256: hex::encode(path.to_str().unwrap()),
        scale,
        text_encoder_scale: None,
    }
}

/// The adapter file that a training wrote at its end.
fn trained(reports: &[Report]) -> &Path {
    let [.., Report::Output { output, .. }, Report::Done { .. }] = reports else { panic!("{reports:?}") };
    assert_eq!(output.kind, OutputKind::Adapter);
    &output.path
}

/// The pixels of a PNG, without its text chunks.
fn pixels(png: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn the_same_order_makes_the_same_bytes_and_adapters_come_and_go() {
    let mut bench = Bench::start("");
    let lora = goldens("lora/peft.safetensors");
    let first = bench.pictures(&[]);
    assert_ne!(pixels(&first[0]), pixels(&first[1]), "each picture has its own seed");
    let with = bench.pictures(&[(&lora, 1.0)]);
    let stronger = bench.pictures(&[(&lora, 2.0)]);
    let after = bench.pictures(&[]);
    assert_ne!(pixels(&with[0]), pixels(&first[0]));
    assert_ne!(pixels(&with[0]), pixels(&stronger[0]));
    assert_eq!(after, first);
}

#[test]
fn previews_come_while_it_works_and_change_nothing() {
    let mut bench = Bench::start("step_delay_ms=250");
    let plain = bench.pictures(&[]);
    let foreign = goldens("taesd-tiny/diffusion_pytorch_model.safetensors");
    for (vae_approx, warnings) in [(None, 0), (Some(foreign), 0), (Some("/nowhere".into()), 1)] {
        let mut order = Generate { vae_approx, ..bench.picture_order(&[]) };
        order.params.preview_every = Some(1);
        bench.say(&Order::Generate(Box::new(order.clone())));
        let reports = bench.follow(order.request, |_| None);
        let warned = reports.iter().filter(|report| matches!(report, Report::Warning { .. })).count();
        assert_eq!(warned, warnings, "{reports:?}");
        let (mut seen, mut last) = (Vec::new(), PathBuf::new());
        for report in &reports {
            if let Report::Preview { step, total_steps: 4, position, path, width: 32, height: 32, .. } = report {
                seen.push((*step, *position));
                last = path.clone();
            }
        }
        assert!(std::fs::read(last).unwrap().starts_with(b"\xff\xd8\xff"), "a JPEG file");
        let kept = std::fs::read_dir(&order.output_dir).unwrap().count();
        assert_eq!(kept, 3, "both pictures, and of the previews the newest alone");
        // On a busy machine, a preview that took long delays the next one.
        let all = [(1, 0), (2, 0), (3, 1), (4, 1)];
        assert_eq!(seen.first(), all.first());
        assert!(seen.len() >= 2 && seen.is_sorted() && seen.iter().all(|step| all.contains(step)), "{seen:?}");
        assert_eq!(std::fs::read(order.output_dir.join("0.png")).unwrap(), plain[0]);
    }
}

#[test]
fn a_training_goes_on_from_its_checkpoint_to_the_same_adapter() {
    let mut bench = Bench::start("");
    let order = bench.training_order(None);
    bench.say(&Order::Train(Box::new(order.clone())));
    let reports = bench.follow(order.request, |_| None);
    let checkpoint = reports.iter().find_map(|report| match report {
        Report::Checkpoint { path, step: 2, .. } => Some(path.clone()),
        _ => None,
    });
    let whole = trained(&reports);
    assert!(reports.iter().all(|report| !matches!(report, Report::Progress { loss: None, .. })));

    let order = bench.training_order(checkpoint);
    bench.say(&Order::Train(Box::new(order.clone())));
    let reports = bench.follow(order.request, |_| None);
    let resumed = trained(&reports);
    let steps = reports.iter().filter(|report| matches!(report, Report::Progress { .. })).count();
    assert_eq!(steps, 2, "two of four steps were done before");
    assert_eq!(std::fs::read(resumed).unwrap(), std::fs::read(whole).unwrap());

    let without = bench.pictures(&[]);
    assert_ne!(pixels(&bench.pictures(&[(whole, 1.0)])[0]), pixels(&without[0]));
}

#[test]
fn models_come_and_go_and_the_worker_is_told() {
    let mut bench = Bench::start("");
    let order = |bench: &mut Bench, order: &dyn Fn(RequestId) -> Order| {
        let (request, _) = bench.output();
        bench.say(&order(request));
        bench.follow(request, |_| None)
    };
    let load = |base: Base| move |request| Order::Load { request, base: base.clone() };
    let unload = |base: Base| move |request| Order::Unload { request, sha256: base.sha256.clone() };
    let names = |bench: &Bench| bench.resident.iter().map(|model| model.sha256[..2].to_owned()).collect::<Vec<_>>();
    let other = Base { sha256: "bb".repeat(32), ..base() };

    for base in [base(), other.clone()] {
        let reports = order(&mut bench, &load(base));
        assert!(matches!(reports.as_slice(), [Report::Loading { .. }, Report::Done { .. }]), "{reports:?}");
    }
    assert_eq!(names(&bench), ["aa", "bb"]);
    assert!(bench.resident.iter().all(|model| model.bytes > 100_000), "{:?}", bench.resident);
    bench.pictures(&[]);
    order(&mut bench, &unload(other));
    assert_eq!(names(&bench), ["aa"]);
    for _ in 0..2 {
        order(&mut bench, &unload(base()));
        assert!(bench.resident.is_empty());
    }
    // A job finds the model loaded.
    bench.pictures(&[]);
    assert_eq!(names(&bench), ["aa"]);
    let nowhere = Base { folder: "/nowhere".into(), sha256: "cc".repeat(32), ..base() };
    let reports = order(&mut bench, &load(nowhere));
    assert!(matches!(reports.last(), Some(Report::Failed { .. })), "{reports:?}");
    assert_eq!(names(&bench), ["aa"]);
}

#[test]
fn cancel_is_seen_between_two_steps_and_the_engine_goes_on() {
    let mut bench = Bench::start("step_delay_ms=50");
    let mut order = bench.picture_order(&[]);
    order.params.num_inference_steps = 50;
    let request = order.request;
    bench.say(&Order::Generate(Box::new(order)));
    let reports = bench.follow(request, |step| (step == 2).then_some(Order::Cancel { request }));
    assert!(matches!(reports.last(), Some(Report::Canceled { .. })), "{reports:?}");
    assert!(reports.len() <= 6, "a cancel at step 2: {reports:?}");
    bench.pictures(&[]);
}

#[test]
fn a_suspended_training_leaves_a_checkpoint() {
    let mut bench = Bench::start("step_delay_ms=50");
    let mut order = bench.training_order(None);
    (order.params.steps, order.checkpoint_every) = (1000, 1000);
    let request = order.request;
    bench.say(&Order::Train(Box::new(order)));
    let reports = bench.follow(request, |step| (step == 1).then_some(Order::Suspend { request }));
    let [.., Report::Checkpoint { path, step, .. }, Report::Suspended { .. }] = reports.as_slice() else {
        panic!("{reports:?}")
    };
    assert!(path.exists() && *step <= 3, "{step}");
}

#[test]
fn a_panic_is_a_failed_request_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(&format!("panic_at_step=1,once_file={}/fired", folder.path().display()));
    let order = bench.picture_order(&[]);
    let request = order.request;
    bench.say(&Order::Generate(Box::new(order)));
    let reports = bench.follow(request, |_| None);
    let Some(Report::Failed { class: FailureClass::Internal, message, .. }) = reports.last() else {
        panic!("{reports:?}")
    };
    assert!(message.contains("at step 1"), "{message}");
    bench.pictures(&[]);
}

#[test]
fn what_can_never_work_is_said_to_be_so() {
    let mut bench = Bench::start("");
    let mut off_grid = bench.picture_order(&[]);
    off_grid.params.width = 33;
    let stranger = goldens("noise.safetensors");
    let not_a_lora = bench.picture_order(&[(&stranger, 1.0)]);
    for order in [off_grid, not_a_lora] {
        let request = order.request;
        bench.say(&Order::Generate(Box::new(order)));
        let reports = bench.follow(request, |_| None);
        assert!(
            matches!(reports.last(), Some(Report::Failed { class: FailureClass::InvalidInput, .. })),
            "{reports:?}"
        );
    }
    bench.pictures(&[]);
}

#[test]
fn the_end_of_the_worker_is_noticed_during_work() {
    let mut bench = Bench::start("step_delay_ms=1000");
    let mut order = bench.picture_order(&[]);
    order.params.num_images = 1;
    bench.say(&Order::Generate(Box::new(order)));
    assert!(matches!(bench.hear(), Report::Loading { .. }));
    drop(bench.orders);
    bench.orphaned.recv_timeout(std::time::Duration::from_millis(500)).expect("not noticed");
    drop(bench.reports);
    bench.serving.join().unwrap();
}

#[test]
fn what_cannot_fit_is_refused_before_it_starts() {
    let mut bench = Bench::within(64 << 20, WeightChoice::Auto, "");
    let mut order = bench.picture_order(&[]);
    (order.params.width, order.params.height) = (2048, 2048);
    let request = order.request;
    bench.say(&Order::Generate(Box::new(order)));
    let reports = bench.follow(request, |_| None);
    let Some(Report::Failed { class: FailureClass::InvalidInput, message, .. }) = reports.last() else {
        panic!("{reports:?}")
    };
    assert!(
        message.starts_with("2048×2048 takes at least") && message.contains("64.0 MiB (--vram-budget)"),
        "{message}"
    );
    assert!(!reports.iter().any(|report| matches!(report, Report::Resident { .. })), "it was loaded: {reports:?}");
    bench.pictures(&[]);
}

#[test]
fn a_training_that_cannot_fit_is_refused_before_it_starts() {
    let mut bench = Bench::within(512 << 20, WeightChoice::Auto, "");
    let mut order = bench.training_order(None);
    (order.params.batch_size, order.params.resolution) = (64, 2048);
    let request = order.request;
    bench.say(&Order::Train(Box::new(order)));
    let reports = bench.follow(request, |_| None);
    let [Report::Loading { .. }, Report::Failed { class: FailureClass::InvalidInput, message, memory, .. }] =
        reports.as_slice()
    else {
        panic!("{reports:?}")
    };
    assert!(message.starts_with("a training at 2048×2048 with batches of 64"), "{message}");
    assert!(message.contains("512.0 MiB (--vram-budget): what would fit is"), "{message}");
    assert!(memory.is_some_and(|memory| memory > 512 << 20), "{memory:?}");
    let order = bench.training_order(None);
    bench.say(&Order::Train(Box::new(order.clone())));
    trained(&bench.follow(order.request, |_| None));
}

/// The model `ember`, whose blocks are wide enough to be packed.
#[test]
fn packed_weights_make_their_own_pictures_and_say_so() {
    let picture = |choice: &str| {
        let mut bench = Bench::within(1 << 30, choice.parse().unwrap(), "");
        let mut order = bench.picture_order(&[]);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember");
        order.base = Base { folder, name: "ember".into(), sha256: "ee".repeat(32) };
        (order.params.num_images, order.params.width, order.params.height) = (1, 64, 64);
        let request = order.request;
        bench.say(&Order::Generate(Box::new(order)));
        let reports = bench.follow(request, |_| None);
        let path = reports.iter().find_map(|report| match report {
            Report::Output { output, .. } => Some(&output.path),
            _ => None,
        });
        std::fs::read(path.unwrap_or_else(|| panic!("{reports:?}"))).unwrap()
    };
    let (full, auto, int4) = (picture("full"), picture("auto"), picture("int4"));
    assert_eq!(auto, full, "there is room");
    assert_ne!(pixels(&int4), pixels(&full));
    let says = |png: &[u8], text: &str| String::from_utf8_lossy(png).contains(text);
    assert!(says(&int4, ", Weights: int4") && !says(&full, "Weights:"));
}

#[test]
fn a_picture_has_the_format_of_its_request() {
    let mut bench = Bench::start("");
    let plain = bench.pictures(&[]);
    for (format, quality, magic) in [
        (OutputFormat::Jpeg, Some(90), &b"\xff\xd8\xff"[..]),
        (OutputFormat::Webp, Some(90), b"RIFF"),
        (OutputFormat::Webp, Some(100), b"RIFF"),
    ] {
        let mut order = bench.picture_order(&[]);
        (order.params.output_format, order.params.output_quality) = (format, quality);
        bench.say(&Order::Generate(Box::new(order.clone())));
        bench.follow(order.request, |_| None);
        let bytes = std::fs::read(order.output_dir.join(format!("0.{}", format.extension()))).unwrap();
        assert!(bytes.starts_with(magic));
        let read = image::load_from_memory(&bytes).unwrap().to_rgb8().into_raw();
        let furthest = read.iter().zip(pixels(&plain[0])).map(|(one, other)| one.abs_diff(other)).max();
        assert_eq!(furthest == Some(0), quality == Some(100), "{format:?} {quality:?} is {furthest:?} levels off");
    }
}

/// The orders that read weights.
fn reading_orders(bench: &mut Bench) -> [(RequestId, Order); 3] {
    let (generate, train, (load, _)) = (bench.picture_order(&[]), bench.training_order(None), bench.output());
    [
        (generate.request, Order::Generate(Box::new(generate))),
        (train.request, Order::Train(Box::new(train))),
        (load, Order::Load { request: load, base: base() }),
    ]
}

/// The tiny model has some 250 pieces, which take 8 s at this delay.
#[test]
fn a_cancel_takes_effect_while_weights_are_read_and_the_engine_continues() {
    let mut bench = Bench::start("read_delay_ms=30");
    for (request, order) in reading_orders(&mut bench) {
        bench.say(&order);
        let (mut asked, mut read) = (None, 0);
        let last = loop {
            match bench.hear() {
                Report::Loading { .. } => {}
                Report::Reading { bytes, total_bytes, seconds, .. } => {
                    assert!(read < bytes && bytes < total_bytes && seconds >= 1.0, "{bytes} of {total_bytes}");
                    read = bytes;
                    if asked.is_none() {
                        bench.say(&Order::Cancel { request });
                        asked = Some(Instant::now());
                    }
                }
                other => break other,
            }
        };
        assert!(matches!(last, Report::Canceled { .. }), "{order:?}: {last:?}");
        let took = asked.map(|asked| asked.elapsed());
        // Two seconds are promised; a machine that is busy with other tests takes longer, and the whole model 8 s.
        assert!(took.is_some_and(|took| took < Duration::from_secs(4)), "{order:?}: canceled after {took:?}");
        assert!(bench.resident.is_empty(), "half a model: {:?}", bench.resident);
    }
    bench.pictures(&[]);
}

#[test]
fn a_training_is_suspended_while_weights_are_read() {
    let mut bench = Bench::start("read_delay_ms=30");
    let order = bench.training_order(None);
    let request = order.request;
    bench.say(&Order::Train(Box::new(order)));
    let began = Instant::now();
    while !matches!(bench.hear(), Report::Reading { .. }) {}
    bench.say(&Order::Suspend { request });
    let reports = bench.follow(request, |_| None);
    let [.., Report::Suspended { .. }] = reports.as_slice() else { panic!("{reports:?}") };
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn reading_is_reported_once_a_second_and_ends_before_the_first_step() {
    let mut bench = Bench::start("read_delay_ms=30");
    let order = bench.picture_order(&[]);
    let request = order.request;
    let began = Instant::now();
    bench.say(&Order::Generate(Box::new(order)));
    let reports = bench.follow(request, |_| None);
    let read = |report: &Report| match report {
        Report::Reading { bytes, total_bytes, .. } => Some((*bytes, *total_bytes)),
        _ => None,
    };
    let steps_begin = reports.iter().position(|report| matches!(report, Report::Progress { .. })).unwrap();
    let all: Vec<_> = reports.iter().filter_map(read).collect();
    let whole = all.iter().position(|(bytes, total)| bytes == total);
    assert!(all.len() >= 4 && all.len() <= began.elapsed().as_secs() as usize + 1, "{all:?}");
    assert_eq!(whole, Some(all.len() - 1), "{all:?}");
    assert!(reports[steps_begin..].iter().all(|report| read(report).is_none()), "{reports:?}");
    // It is loaded now, and nothing is read.
    let order = bench.picture_order(&[]);
    let request = order.request;
    bench.say(&Order::Generate(Box::new(order)));
    assert!(bench.follow(request, |_| None).iter().all(|report| read(report).is_none()));
}

#[test]
fn a_file_that_shrinks_while_it_is_read_fails_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let copied = std::process::Command::new("cp").arg("-r").args([&goldens("flux-tiny"), &path]).status();
    assert!(copied.unwrap().success());
    let file = path.join("transformer/diffusion_pytorch_model-00005-of-00005.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let mut bench = Bench::start("read_delay_ms=10");
    for shrinks in [true, false] {
        std::fs::write(&file, &whole).unwrap();
        let mut order = bench.picture_order(&[]);
        order.base.folder.clone_from(&path);
        let request = order.request;
        bench.say(&Order::Generate(Box::new(order)));
        if shrinks {
            // Its header was read for the estimate.
            while !matches!(bench.hear(), Report::Reading { .. }) {}
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(50_000).unwrap();
        }
        let reports = bench.follow(request, |_| None);
        match reports.last() {
            Some(Report::Failed { class: FailureClass::Resource, message, .. }) if shrinks => assert!(
                message.starts_with(
                    "transformer/diffusion_pytorch_model-00005-of-00005.safetensors: the file was shortened"
                ),
                "{message}"
            ),
            Some(Report::Done { .. }) if !shrinks => {}
            other => panic!("{other:?}"),
        }
    }
}
