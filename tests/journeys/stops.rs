//! How processes stop: by signals that an init system sends to all processes of a service at the same moment, by the
//! end of a terminal, and at limits of the system.

use std::process::Command;

use journeys::client::{Client, text};
use journeys::model::tiny_files;
use journeys::picture::discs;
use journeys::process::{Process, Signal, binary, children_of, mentioning, runs, send};
use journeys::stack::{Pace, Stack, free_port};
use journeys::wait::{milliseconds, seconds, until};
use serde_json::json;

use crate::embedded_stack::{open_folder, ready, up_command};

/// A process with all that it started, and what those started.
fn family(of: u32) -> Vec<u32> {
    children_of(of).into_iter().flat_map(family).chain([of]).collect()
}

/// As systemd stops a unit with `KillMode=control-group`.
fn signal_all(process: &Process, signal: Signal) {
    for id in family(process.id()) {
        send(id, signal);
    }
}

#[tokio::test]
async fn a_signal_to_worker_and_engine_costs_no_attempt() {
    let stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_CHECKPOINT_EVERY", "1000")]).await;
    let client = &stack.client;
    let slow = "step_delay_ms=300";
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 12, "width": 32, "height": 32});

    // The pictures are finished, also with systemd's SendSIGHUP=yes.
    let mut worker = stack.worker("first", slow);
    let generation = client.generate(&request).await;
    client.running_at(&generation, 1, seconds(60)).await;
    signal_all(&worker, Signal::TERM);
    signal_all(&worker, Signal::HUP);
    assert!(worker.wait(seconds(60)).success());
    let end = client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(end["status"], "succeeded", "{end:#}");
    assert_eq!(stack.ledger.attempts(&text(&generation["id"])).await.len(), 1);

    // A training stores a checkpoint, and continues from there. A closed terminal is a reason to stop like any other.
    let dataset = client.dataset("discs", &discs(2)).await;
    let training = client
        .train(&json!({"name": "ink", "dataset": dataset, "model": "tiny", "steps": 60, "rank": 2, "resolution": 32}))
        .await;
    for (name, signal) in [("second", Signal::TERM), ("third", Signal::HUP), ("fourth", Signal::INT)] {
        let saved = async || -> i64 {
            let steps = sqlx::query_scalar::<_, Option<i32>>(
                "select max(step) from training_checkpoints where training_id::text = $1",
            );
            let step = steps.bind(text(&training["id"])).fetch_one(stack.ledger.pool()).await.unwrap();
            step.unwrap_or_default().into()
        };
        let mut worker = stack.worker(name, slow);
        let before = saved().await;
        client.running_at(&training, before + 3, seconds(60)).await;
        signal_all(&worker, signal);
        assert!(worker.wait(seconds(60)).success(), "{name}");
        assert!(saved().await > before, "{name}: no checkpoint after the one at step {before}");
    }
    assert_eq!(client.get(&text(&training["urls"]["self"])).await.expect(200)["status"], "queued");

    // The engine ignores them, and ends with its worker all the same: here in the middle of a step.
    let mut worker = stack.worker("fifth", slow);
    until(seconds(60), "the worker has it", || async { stack.holder(&training).await }).await;
    let engine = worker.engine().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        send(engine, signal);
    }
    tokio::time::sleep(milliseconds(500)).await;
    assert!(runs(engine), "the engine ended by a signal");
    worker.kill();
    until(seconds(15), "the engine of a killed worker ends", || async { (!runs(engine)).then_some(()) }).await;
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

#[tokio::test]
async fn a_signal_to_everything_of_up_stops_it_in_order() {
    let folder = open_folder();
    let data = folder.path().join("data");
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let log = folder.path().join("up.log");
    let mut command = up_command(folder.path(), port);
    command.env("PYROGRAPH_ENGINE_FAULT", "step_delay_ms=300");
    let mut process = Process::start("up", &log, command);
    ready(&mut process, &client).await;
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 20, "width": 32, "height": 32});
    let generation = client.generate(&request).await;
    client.running_at(&generation, 1, seconds(90)).await;

    // Postgres was reparented when it was started.
    let servers = mentioning(data.join("postgres").to_str().unwrap());
    assert!(!servers.is_empty());
    servers.into_iter().flat_map(family).for_each(|id| send(id, Signal::TERM));
    signal_all(&process, Signal::TERM);
    assert!(process.wait(seconds(60)).success());
    let text_of_log = process.log();
    // That its database is away for a moment is true, and the only error.
    let errors =
        text_of_log.lines().filter(|line| line.contains("ERROR") && !line.contains("the database does not answer"));
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<&str>::new(), "{text_of_log}");
    assert!(mentioning(data.to_str().unwrap()).is_empty());

    // Under `nohup` a closed terminal ends nothing.
    let inner = up_command(folder.path(), port);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"trap "" HUP; exec "$@""#, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(folder.path());
    let mut process = Process::start("up", &log, command);
    ready(&mut process, &client).await;
    let end = client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(end["status"], "succeeded", "its pictures were finished and stored: {end:#}");
    signal_all(&process, Signal::HUP);
    tokio::time::sleep(seconds(2)).await;
    assert!(process.is_alive() && client.is_ready().await);
    assert!(process.end(Signal::INT, seconds(60)).success());

    // Without it, everything stops in order.
    let mut process = Process::start("up", &log, up_command(folder.path(), port));
    ready(&mut process, &client).await;
    assert!(process.end(Signal::HUP, seconds(60)).success());
    assert!(mentioning(data.to_str().unwrap()).is_empty());
}

/// The system ends a process whose file grows beyond its limit, unless that takes the error.
#[tokio::test]
async fn a_file_beyond_the_limit_of_the_system_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = std::fs::File::create(folder.path().join("openapi.json")).unwrap();
    let script = r#"ulimit -f 8; exec "$0" openapi"#;
    let ended = Command::new("/bin/sh").args(["-c", script]).arg(binary()).stdout(out).output().unwrap();
    let message = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && message.contains("File too large"), "{}: {message}", ended.status);
}
