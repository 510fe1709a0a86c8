//! A scripted engine: it speaks the protocol, takes 10 ms a step, and fails where its order says so.
//!
//! The prompt of a generation and the trigger word of a training control it, with the words of [`misbehave`]; `once
//! PATH …` does the rest only while PATH does not exist. With the prompt `read PATH` it reads weights for half a minute
//! first, under the same condition. What it loads stays loaded; a model named `giant` does not fit.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use domain::artifact::{ADAPTER_MEDIA_TYPE, OutputKind};
use memory::Budget;
use worker::protocol::{self, Base, Generate, Order, Output, PROTOCOL_VERSION, Report, RequestId, Resident, Train};

/// Runs as the engine if the program was started with the word `engine`.
pub(crate) fn engine_if_asked() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    (words.get(1)? == "engine").then(|| engine(words.get(2).map(String::as_str).unwrap_or_default()))
}

#[derive(Default)]
struct Wishes {
    canceled: AtomicU64,
    suspended: AtomicU64,
}

fn engine(role: &str) -> ExitCode {
    let wishes = Arc::new(Wishes::default());
    let (orders, inbox) = mpsc::channel();
    let heard = Arc::clone(&wishes);
    std::thread::spawn(move || {
        while let Ok(Some(order)) = protocol::read::<Order>(&mut std::io::stdin()) {
            match order {
                Order::Cancel { request } => heard.canceled.store(request, Ordering::SeqCst),
                Order::Suspend { request } => heard.suspended.store(request, Ordering::SeqCst),
                _ => {}
            }
            orders.send(order).unwrap();
        }
        std::process::exit(0);
    });
    let mut loaded = Vec::new();
    for order in inbox {
        match order {
            Order::Hello { .. } => {
                let version = if role == "from-the-future" { PROTOCOL_VERSION + 1 } else { PROTOCOL_VERSION };
                say(Report::Ready {
                    version,
                    device: "scripted".into(),
                    why: None,
                    budget: Some(Budget::on_cpu(1 << 30)),
                });
            }
            Order::Generate(order) if role == "broken" => {
                let (request, message) = (order.request, "the card is broken".into());
                say(Report::Failed { request, class: protocol::FailureClass::Internal, message, memory: None });
            }
            Order::Generate(order) => {
                load(&order.base, &mut loaded);
                generate(&order, &wishes);
            }
            Order::Load { request, base } if base.name == "giant" => {
                let message = "giant does not fit".into();
                say(Report::Failed { request, class: protocol::FailureClass::Resource, message, memory: None });
            }
            Order::Load { request, base } => {
                assert!(base.folder.join("model_index.json").exists());
                load(&base, &mut loaded);
                say(Report::Done { request });
            }
            Order::Unload { request, sha256 } => {
                loaded.retain(|model: &Resident| model.sha256 != sha256);
                say(Report::Resident { models: loaded.clone() });
                say(Report::Done { request });
            }
            Order::Train(order) => train(&order, &wishes),
            Order::Shutdown => break,
            Order::Cancel { .. } | Order::Suspend { .. } => {}
        }
    }
    ExitCode::SUCCESS
}

fn load(base: &Base, loaded: &mut Vec<Resident>) {
    if loaded.iter().all(|model| model.sha256 != base.sha256) {
        loaded.push(Resident { sha256: base.sha256.clone(), bytes: 7 });
        say(Report::Resident { models: loaded.clone() });
    }
}

fn say(report: Report) {
    protocol::write(&mut std::io::stdout(), &report).unwrap();
}

fn step(request: RequestId, step: usize, total_steps: usize, script: &str) {
    std::thread::sleep(Duration::from_millis(10));
    say(Report::Progress { request, step, total_steps, loss: Some(0.5), seconds_per_step: Some(0.01) });
    misbehave(script, step);
}

fn misbehave(script: &str, step: usize) {
    if step != 2 {
        return;
    }
    let word = match script.strip_prefix("once ").and_then(|rest| rest.split_once(' ')) {
        Some((path, word)) if std::fs::File::create_new(path).is_ok() => word,
        Some(_) => return,
        None => script,
    };
    match word {
        "abort" => std::process::abort(),
        "exit" => {
            eprintln!("CUDA error 700: an illegal memory access was encountered");
            std::process::exit(70);
        }
        "hang" => std::thread::sleep(Duration::from_hours(1)),
        "print" => println!("a library that prints to stdout"),
        _ => {}
    }
}

fn generate(order: &Generate, wishes: &Wishes) {
    let request = order.request;
    say(Report::Loading { request });
    // Checks for the files that a real engine needs.
    for file in order.loras.iter().map(|lora| lora.path.clone()).chain([order.base.folder.join("model_index.json")]) {
        if order.base.sha256 != "00" && !file.exists() {
            let message = format!("{} is missing", file.display());
            return say(Report::Failed { request, class: protocol::FailureClass::Internal, message, memory: None });
        }
    }
    let params = &order.params;
    if let Some(path) = params.prompt.strip_prefix("read ")
        && std::fs::File::create_new(path).is_ok()
    {
        for tenth in 1..300 {
            std::thread::sleep(Duration::from_millis(100));
            if wishes.canceled.load(Ordering::SeqCst) == request {
                return say(Report::Canceled { request });
            }
            say(Report::Reading { request, bytes: tenth << 20, total_bytes: 300 << 20, seconds: tenth as f64 / 10.0 });
        }
        say(Report::Reading { request, bytes: 300 << 20, total_bytes: 300 << 20, seconds: 30.0 });
    }
    let steps = params.num_inference_steps as usize;
    for number in 1..=steps {
        step(request, number, steps, &params.prompt);
        if wishes.canceled.load(Ordering::SeqCst) == request {
            return say(Report::Canceled { request });
        }
    }
    if params.prompt == "paths" {
        let (base, output) = (order.base.folder.display(), order.output_dir.display());
        let message = format!("{base}/vae/config.json: not JSON; see {output}/0.png");
        say(Report::Warning { request, message: message.clone() });
        return say(Report::Failed { request, class: protocol::FailureClass::InvalidInput, message, memory: None });
    }
    if params.prompt == "nonsense" {
        let message = "the prompt makes no sense".into();
        return say(Report::Failed { request, class: protocol::FailureClass::InvalidInput, message, memory: None });
    }
    if order.output_dir != Path::new("") {
        for position in 0..params.num_images as usize {
            let path = order.output_dir.join(format!("{position}.{}", params.output_format.extension()));
            let seed = order.seed + position as u64;
            std::fs::write(&path, format!("picture of {} with seed {seed}", params.prompt)).unwrap();
            let output = Output {
                position,
                path,
                kind: OutputKind::Image,
                media_type: params.output_format.media_type().into(),
                size: Some([params.width, params.height]),
                seed: Some(seed),
            };
            say(Report::Output { request, output });
        }
    }
    // A report about a request that ended long ago must not reach another session.
    say(Report::Warning { request: request + 1000, message: "stale".into() });
    say(Report::Done { request });
    if params.prompt == "die when idle" {
        std::process::exit(1);
    }
}

fn train(order: &Train, wishes: &Wishes) {
    let request = order.request;
    say(Report::Loading { request });
    assert!(order.examples.iter().all(|example| example.path.exists()));
    let begin = order.resume.as_ref().map_or(0, |path| std::fs::read_to_string(path).unwrap().parse().unwrap());
    let checkpoint = |step: usize| {
        let path = order.output_dir.join(format!("checkpoint-{step}"));
        std::fs::write(&path, step.to_string()).unwrap();
        say(Report::Checkpoint { request, path, step });
    };
    let steps = order.params.steps as usize;
    for number in begin + 1..=steps {
        step(request, number, steps, order.params.trigger_word.as_deref().unwrap_or_default());
        if wishes.canceled.load(Ordering::SeqCst) == request {
            return say(Report::Canceled { request });
        }
        if wishes.suspended.load(Ordering::SeqCst) == request {
            checkpoint(number);
            return say(Report::Suspended { request });
        }
        if number % order.checkpoint_every == 0 {
            checkpoint(number);
        }
    }
    let adapter = order.output_dir.join("adapter.safetensors");
    std::fs::write(&adapter, format!("adapter after {steps} steps from {begin}")).unwrap();
    let output = Output {
        position: 0,
        path: adapter,
        kind: OutputKind::Adapter,
        media_type: ADAPTER_MEDIA_TYPE.into(),
        size: None,
        seed: None,
    };
    say(Report::Output { request, output });
    say(Report::Done { request });
}
