//! Batches queries: those that arrive while others are running go to the database together, in one statement and one
//! commit. A lone query is sent immediately; batching adds no latency.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{Error, Result};

/// Most statements running at a time; more would only make each batch smaller.
const LANES: usize = 2;
/// Most questions in one statement.
const MOST: usize = 64;

/// Answers a batch of questions, in their order.
type Together<Q, A> = Box<dyn for<'a> Fn(&'a [Q]) -> BoxFuture<'a, Result<Vec<A>>> + Send + Sync>;

/// Cloning is cheap, and clones share their questions.
pub(crate) struct Batcher<Q, A>(Arc<Inner<Q, A>>);

struct Inner<Q, A> {
    together: Together<Q, A>,
    waiting: Mutex<Waiting<Q, A>>,
}

struct Waiting<Q, A> {
    questions: VecDeque<(Q, oneshot::Sender<Result<A>>)>,
    lanes: usize,
}

impl<Q: Send + Sync + 'static, A: Send + 'static> Batcher<Q, A> {
    pub(crate) fn new(
        together: impl for<'a> Fn(&'a [Q]) -> BoxFuture<'a, Result<Vec<A>>> + Send + Sync + 'static,
    ) -> Self {
        let waiting = Mutex::new(Waiting { questions: VecDeque::new(), lanes: 0 });
        Self(Arc::new(Inner { together: Box::new(together), waiting }))
    }

    /// The answer to one question. A caller that stops waiting does not stop the statement, which carries others'
    /// questions too.
    pub(crate) async fn ask(&self, question: Q) -> Result<A> {
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.0.waiting();
            waiting.questions.push_back((question, sender));
            if waiting.lanes < LANES {
                waiting.lanes += 1;
                tokio::spawn(Lane { of: self.0.clone(), open: true }.run());
            }
        }
        answer.await.map_err(|_| Error::internal("the answer to a gathered question was lost"))?
    }
}

impl<Q, A> Clone for Batcher<Q, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q, A> Inner<Q, A> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until no question is left.
struct Lane<Q, A> {
    of: Arc<Inner<Q, A>>,
    open: bool,
}

impl<Q, A> Lane<Q, A> {
    async fn run(mut self) {
        loop {
            let (questions, senders): (Vec<Q>, Vec<_>) = {
                let mut waiting = self.of.waiting();
                if waiting.questions.is_empty() {
                    // Under the lock of the check, so that the next question finds the lane closed.
                    waiting.lanes -= 1;
                    self.open = false;
                    return;
                }
                let count = waiting.questions.len().min(MOST);
                waiting.questions.drain(..count).unzip()
            };
            for (sender, answer) in senders.into_iter().zip(self.answers(&questions).await) {
                // The caller may have stopped waiting.
                let _ = sender.send(answer);
            }
        }
    }

    /// A question that the database refuses must not spoil the others: they are then asked one by one.
    async fn answers(&self, questions: &[Q]) -> Vec<Result<A>> {
        match (self.of.together)(questions).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) if questions.len() == 1 || error.is_transient() => {
                questions.iter().map(|_| Err(error.clone())).collect()
            }
            Err(_) => {
                let mut answers = Vec::with_capacity(questions.len());
                for question in questions {
                    let answer = (self.of.together)(std::slice::from_ref(question)).await;
                    answers.push(answer.and_then(|mut one| one.pop().ok_or_else(|| Error::internal("no answer"))));
                }
                answers
            }
        }
    }
}

impl<Q, A> Drop for Lane<Q, A> {
    fn drop(&mut self) {
        // After a panic in a statement, or with the runtime.
        if self.open {
            self.of.waiting().lanes -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Doubles numbers; 13 is refused, 99 makes it panic.
    fn doubling(calls: Arc<AtomicUsize>) -> Batcher<u32, u32> {
        Batcher::new(move |numbers| {
            calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(!numbers.contains(&99));
                if numbers.contains(&13) {
                    return Err(Error::internal("13"));
                }
                Ok(numbers.iter().map(|number| number * 2).collect())
            })
        })
    }

    #[tokio::test]
    async fn each_gets_its_own_answer_and_most_share_a_call() {
        let calls = Arc::new(AtomicUsize::new(0));
        let batcher = doubling(calls.clone());
        let answers = futures::future::join_all((100..200).map(|number| batcher.ask(number))).await;
        for (number, answer) in (100..200).zip(answers) {
            assert_eq!(answer.unwrap(), 2 * number);
        }
        assert!(calls.load(Ordering::Relaxed) <= 5, "{calls:?}");
    }

    #[tokio::test]
    async fn a_refused_question_spoils_no_other() {
        let batcher = doubling(Arc::default());
        let answers = futures::future::join_all((0..20).map(|number| batcher.ask(number))).await;
        for (number, answer) in (0..20).zip(answers) {
            assert_eq!(answer.ok(), (number != 13).then_some(2 * number));
        }
    }

    #[tokio::test]
    async fn one_that_leaves_and_one_that_panics_stop_nobody_later() {
        let batcher = doubling(Arc::default());
        for _ in 0..2 * LANES {
            assert!(batcher.ask(99).await.is_err());
        }
        let gone = tokio::time::timeout(Duration::from_millis(1), batcher.ask(1)).await;
        assert!(gone.is_err());
        assert_eq!(batcher.ask(2).await.unwrap(), 4);
    }
}
