//! One request to the engine, as seen by its job: the engine's reports, and reasons to end the job before the work is
//! done.
//!
//! Four things can end a job early: its lease is lost, a user cancels it, the worker stops, or the engine is gone. They
//! are combined into one result here, a [`Stop`]. [`crate::generate`] and [`crate::train`] interpret the reports.

use std::sync::Arc;
use std::time::Duration;

use domain::job::ErrorClass;
use domain::job::kind::DrainRule;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Drain;
use crate::labels::Labels;
use crate::lease::Lease;
use crate::protocol::Report;
use crate::stop::{Stop, Trouble};
use crate::supervisor::{EngineExit, Event, Session};

/// How long a job waits for an engine that is being replaced, before it is left to another worker.
const START_LIMIT: Duration = Duration::from_secs(150);
/// How long to wait for a killed engine to exit.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long the engine may take to stop a job whose lease is lost.
const LOST_GRACE: Duration = Duration::from_secs(5);
/// How long the engine may take to stop a canceled job: a step of a large model on a CPU is slow.
const CANCEL_GRACE: Duration = Duration::from_secs(15);
/// One part in this many of a training's drain time is reserved for uploading its checkpoint.
const UPLOAD_SHARE: u32 = 3;

/// The conversation about one request.
pub struct Conversation<'a> {
    session: Session,
    lease: &'a Lease,
    labels: Arc<Labels>,
    draining: CancellationToken,
    drain: Drain,
    /// Why the engine was asked to stop.
    reason: Option<Reason>,
    /// When the engine is killed if it has not stopped.
    deadline: Option<Instant>,
    /// When to stop waiting: no engine came up, or none was left to kill.
    hopeless: Option<Instant>,
    drained: bool,
    killed: bool,
    /// Whether weights are being read, which may take minutes.
    reading: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    LeaseLost,
    Canceled,
    Draining,
}

impl<'a> Conversation<'a> {
    /// Watches a session that has begun. `draining` is cancelled when the worker should stop.
    pub(crate) fn new(
        session: Session,
        lease: &'a Lease,
        labels: Arc<Labels>,
        draining: CancellationToken,
        drain: Drain,
    ) -> Self {
        let hopeless = Some(Instant::now() + START_LIMIT);
        Self {
            session,
            lease,
            labels,
            draining,
            drain,
            reason: None,
            deadline: None,
            hopeless,
            drained: false,
            killed: false,
            reading: false,
        }
    }

    /// The next report that matters to the job; [`Report::Done`] is the last one.
    ///
    /// # Errors
    /// Why the attempt ends before the work is done. The engine does nothing more for this job then.
    pub async fn next(&mut self) -> Result<Report, Stop> {
        loop {
            let lost = self.reason == Some(Reason::LeaseLost);
            tokio::select! {
                biased;
                () = self.lease.lost(), if !lost => {
                    self.leave(Reason::LeaseLost, LOST_GRACE);
                    self.session.cancel();
                }
                () = self.lease.canceled(), if !lost && self.reason != Some(Reason::Canceled) => {
                    self.leave(Reason::Canceled, CANCEL_GRACE);
                    self.session.cancel();
                }
                () = self.draining.cancelled(), if self.reason.is_none() && !self.drained => self.drain(),
                () = until(self.deadline), if self.deadline.is_some() => {
                    self.deadline = None;
                    self.killed = true;
                    self.hopeless = Some(Instant::now() + KILL_LIMIT);
                    self.reason.get_or_insert(Reason::Draining);
                    self.session.kill();
                }
                () = until(self.hopeless), if self.hopeless.is_some() => {
                    let trouble = || Stop::Trouble(Trouble::Engine, "The engine of the worker does not start.".into());
                    return Err(self.stop().unwrap_or_else(trouble));
                }
                event = self.session.next() => match event {
                    Some(Event::Report(report)) => {
                        if !self.killed {
                            self.hopeless = None;
                        }
                        if let Some(report) = self.heard(report)? {
                            return Ok(report);
                        }
                    }
                    Some(Event::Exited(exit)) => return Err(self.exited(exit)),
                    None => return Err(self.exited(EngineExit::Crashed("the engine left without a word".into()))),
                },
            }
        }
    }

    fn leave(&mut self, reason: Reason, grace: Duration) {
        self.reason = Some(reason);
        self.deadline = Some(Instant::now() + grace);
    }

    fn drain(&mut self) {
        self.drained = true;
        let limit = match self.drain_rule() {
            // Nothing is lost yet, and the end is not near.
            DrainRule::Finish if self.reading => return self.release(),
            DrainRule::Finish => self.drain.finish,
            DrainRule::Suspend => {
                self.session.suspend();
                self.drain.suspend.saturating_sub(self.drain.suspend / UPLOAD_SHARE)
            }
            DrainRule::Release => return self.release(),
        };
        tracing::info!(
            job = %self.lease.claim().subject,
            limit_seconds = limit.as_secs_f64(),
            "the worker stops; its job may run until the limit"
        );
        self.deadline = Some(Instant::now() + limit);
    }

    fn drain_rule(&self) -> DrainRule {
        self.lease.claim().kind.spec().drain
    }

    fn release(&mut self) {
        self.leave(Reason::Draining, CANCEL_GRACE);
        self.session.cancel();
    }

    fn heard(&mut self, report: Report) -> Result<Option<Report>, Stop> {
        self.reading = matches!(&report, Report::Reading { bytes, total_bytes, .. } if bytes < total_bytes);
        if self.reading && self.drained && self.reason.is_none() && self.drain_rule() == DrainRule::Finish {
            self.release();
        }
        match report {
            Report::Suspended { .. } if self.reason.is_none() => Err(Stop::Released("the worker stops".into())),
            Report::Canceled { .. } | Report::Suspended { .. } => Err(self.stop().unwrap_or_else(|| {
                Stop::Failed(ErrorClass::Internal, "the engine stopped without being asked".into())
            })),
            Report::Failed { class, message, memory, .. } => Err(self.stop().unwrap_or_else(|| match memory {
                Some(memory) => Stop::DoesNotFit(memory, message),
                None => Stop::of_engine(class, message),
            })),
            // Another attempt may run already; nothing of this one may become visible.
            Report::Done { .. } if self.reason == Some(Reason::LeaseLost) => Err(Stop::LeaseLost),
            _ if self.reason == Some(Reason::LeaseLost) => Ok(None),
            Report::Ready { .. } | Report::Resident { .. } | Report::Loading { .. } => Ok(None),
            Report::Warning { request, message } => {
                Ok(Some(Report::Warning { request, message: self.labels.apply(&message) }))
            }
            report => Ok(Some(report)),
        }
    }

    fn exited(&self, exit: EngineExit) -> Stop {
        self.stop().unwrap_or_else(|| match exit {
            EngineExit::Crashed(how) => Stop::Crashed(how),
            EngineExit::Silent(limit) => {
                Stop::Failed(ErrorClass::Timeout, format!("the engine made no progress for {} s", limit.as_secs_f64()))
            }
            EngineExit::Killed => Stop::Released("the engine was stopped".into()),
        })
    }

    fn stop(&self) -> Option<Stop> {
        self.reason.map(|reason| match reason {
            Reason::LeaseLost => Stop::LeaseLost,
            Reason::Canceled => Stop::Canceled,
            Reason::Draining => Stop::Released("the worker stops".into()),
        })
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        sleep_until(deadline).await;
    }
}
