//! The supervisor against a scripted engine: this very program, started again with the word `engine`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the scripted engine speaks over its pipes")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod scripted;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use requests::GenerationParams;
use tokio_util::sync::CancellationToken;
use worker::protocol::{Base, Generate, Order, Report};
use worker::supervisor::{Engine, EngineCommand, EngineExit, Event, Patience, Work};

fn main() -> ExitCode {
    scripted::engine_if_asked().unwrap_or_else(|| libtest_mimic::run(&Arguments::from_args(), trials()).exit_code())
}

struct Bench {
    engine: Engine,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start(role: &str) -> Self {
        let stop = CancellationToken::new();
        let command = EngineCommand {
            program: std::env::current_exe().unwrap(),
            arguments: vec!["engine".into(), role.into()],
            environment: Vec::new(),
        };
        let (engine, task) = Engine::start(command, stop.clone());
        Self { engine, stop, task }
    }

    async fn process(&self) -> u32 {
        let ready = tokio::time::timeout(Duration::from_secs(10), self.engine.ready());
        ready.await.expect("no engine within 10 s").unwrap().process.unwrap()
    }

    /// Waits for the process that replaces `old`.
    async fn replacement(&self, old: u32) -> u32 {
        let began = Instant::now();
        loop {
            let now = self.process().await;
            if now != old {
                assert!(!alive(old), "the old engine still runs");
                return now;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the engine was not replaced");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn begin(&self, prompt: &str, steps: u32) -> worker::supervisor::Session {
        let prompt = prompt.to_owned();
        let patience =
            Patience { before_first_step: Duration::from_mins(1), between_steps: Duration::from_millis(1500) };
        let work = Work::new(patience, move |request| order(request, prompt, steps));
        self.engine.begin(work).await.unwrap()
    }

    /// All events of one request.
    async fn play(&self, prompt: &str) -> Vec<Event> {
        let mut session = self.begin(prompt, 3).await;
        let mut events = Vec::new();
        while let Some(event) = session.next().await {
            events.push(event);
        }
        events
    }

    async fn still_works(&self) {
        assert!(matches!(self.play("").await.last(), Some(Event::Report(Report::Done { .. }))));
    }
}

fn order(request: u64, prompt: String, steps: u32) -> Order {
    Order::Generate(Box::new(Generate {
        request,
        base: Base { folder: PathBuf::new(), name: "none".into(), sha256: "00".into() },
        loras: Vec::new(),
        params: GenerationParams::new(prompt, steps, [8, 8]),
        seed: 0,
        vae_approx: None,
        output_dir: PathBuf::new(),
    }))
}

/// Whether the process exists and is not a zombie.
fn alive(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn crashed(events: &[Event]) -> &str {
    match events.last() {
        Some(Event::Exited(EngineExit::Crashed(how))) => how,
        other => panic!("no crash but {other:?}"),
    }
}

async fn work_is_reported_step_by_step() {
    let bench = Bench::start("");
    let process = bench.process().await;
    for _ in 0..2 {
        let steps: Vec<_> = bench.play("").await;
        let shape: Vec<_> = steps
            .iter()
            .map(|event| match event {
                Event::Report(Report::Loading { .. }) => "loading",
                Event::Report(Report::Progress { .. }) => "step",
                Event::Report(Report::Done { .. }) => "done",
                _ => "?",
            })
            .collect();
        assert_eq!(shape, ["loading", "step", "step", "step", "done"]);
    }
    assert_eq!(bench.process().await, process, "the engine stays warm between two jobs");
}

async fn a_crash_is_told_and_the_engine_replaced() {
    let bench = Bench::start("");
    let process = bench.process().await;
    assert!(crashed(&bench.play("abort").await).contains("signal 6"));
    bench.replacement(process).await;
    bench.still_works().await;
}

async fn the_last_log_line_of_a_crash_is_told() {
    let bench = Bench::start("");
    let events = bench.play("exit").await;
    let how = crashed(&events);
    assert!(how.contains("code 70") && how.contains("illegal memory access"), "{how}");
    bench.still_works().await;
}

async fn silence_is_ended() {
    let bench = Bench::start("");
    let process = bench.process().await;
    let began = Instant::now();
    let events = bench.play("hang").await;
    assert_eq!(events.last(), Some(&Event::Exited(EngineExit::Silent(Duration::from_millis(1500)))));
    assert!(began.elapsed() >= Duration::from_millis(1500));
    bench.replacement(process).await;
    bench.still_works().await;
}

async fn text_on_stdout_is_a_crash_not_a_message() {
    let bench = Bench::start("");
    crashed(&bench.play("print").await);
    bench.still_works().await;
}

async fn cancel_stops_the_work_and_not_the_engine() {
    let bench = Bench::start("");
    let process = bench.process().await;
    let mut session = bench.begin("", 1000).await;
    session.next().await.unwrap();
    session.cancel();
    let mut last = None;
    let mut steps_after = 0;
    while let Some(event) = session.next().await {
        steps_after += usize::from(matches!(event, Event::Report(Report::Progress { .. })));
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Report(Report::Canceled { .. }))), "{last:?}");
    assert!(steps_after <= 3, "{steps_after} steps after the cancel");
    assert_eq!(bench.process().await, process);
    bench.still_works().await;
}

async fn kill_ends_the_engine_before_it_is_told() {
    let bench = Bench::start("");
    let process = bench.process().await;
    let mut session = bench.begin("hang", 1000).await;
    session.next().await.unwrap();
    session.kill();
    loop {
        match session.next().await {
            Some(Event::Exited(exit)) => {
                assert_eq!(exit, EngineExit::Killed);
                break;
            }
            Some(_) => {}
            None => panic!("no last word"),
        }
    }
    assert!(!alive(process));
    bench.replacement(process).await;
}

async fn a_dropped_session_ends_the_engine() {
    let bench = Bench::start("");
    let process = bench.process().await;
    let mut session = bench.begin("hang", 1000).await;
    session.next().await.unwrap();
    drop(session);
    bench.replacement(process).await;
    bench.still_works().await;
}

async fn an_engine_that_dies_idle_is_replaced() {
    let bench = Bench::start("");
    let process = bench.process().await;
    bench.play("die when idle").await;
    bench.replacement(process).await;
    bench.still_works().await;
}

async fn another_protocol_version_is_refused() {
    let bench = Bench::start("from-the-future");
    assert!(tokio::time::timeout(Duration::from_millis(700), bench.engine.ready()).await.is_err());
}

async fn stopping_ends_the_engine() {
    let bench = Bench::start("");
    let process = bench.process().await;
    bench.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), bench.task).await.unwrap().unwrap();
    assert!(!alive(process));
    assert!(bench.engine.ready().await.is_none());
}

fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => { vec![$(Trial::test(stringify!($name), || on_runtime($name()))),*] };
    }
    trials![
        work_is_reported_step_by_step,
        a_crash_is_told_and_the_engine_replaced,
        the_last_log_line_of_a_crash_is_told,
        silence_is_ended,
        text_on_stdout_is_a_crash_not_a_message,
        cancel_stops_the_work_and_not_the_engine,
        kill_ends_the_engine_before_it_is_told,
        a_dropped_session_ends_the_engine,
        an_engine_that_dies_idle_is_replaced,
        another_protocol_version_is_refused,
        stopping_ends_the_engine,
    ]
}

fn on_runtime(test: impl Future<Output = ()>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test);
    Ok(())
}
