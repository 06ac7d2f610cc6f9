//! One queue for all that is asked of a model: by every partition, session and function of the
//! process.
//!
//! Groups of sequences go in; a thread for each replica of the model takes as many from the front as
//! one forward pass holds, whatever asked for them. Each caller has its share of the queue and waits when
//! that is full; a group whose caller has gone leaves it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Error, Result};

use crate::models::engine::{Answer, Cancelled, Engine, Replica};
use crate::models::group::{Group, GroupOutput};

/// How long a caller waits between two looks at whether its query still stands.
const PATIENCE: Duration = Duration::from_millis(100);

/// The queue holds about so many batches of a caller for each replica.
const BATCHES_WAITING: usize = 4;

/// A group that waits.
#[derive(Debug)]
struct Waiting {
    number: usize,
    group: Group,
    /// Tokens that a forward pass with this group has at most, unless it has more by itself.
    batch_tokens: usize,
    cancelled: Arc<AtomicBool>,
    answer: mpsc::Sender<Answer>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something came in, or the queue was closed.
    filled: Condvar,
}

/// The queue of one model.
#[derive(Debug)]
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    replicas: usize,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.filled.notify_all();
    }
}

impl Scheduler {
    /// Starts a thread for each replica. They end when the scheduler is dropped.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(replicas: Vec<Box<dyn Replica>>) -> std::io::Result<Self> {
        let scheduler = Self {
            shared: Arc::default(),
            replicas: replicas.len(),
        };
        for (number, replica) in replicas.into_iter().enumerate() {
            let worker = Worker {
                replica,
                shared: Arc::clone(&scheduler.shared),
                most_tokens: usize::MAX,
                is_told: false,
            };
            std::thread::Builder::new()
                .name(format!("ches-replica-{number}"))
                .spawn(move || worker.work())?;
        }
        Ok(scheduler)
    }
}

impl Engine for Scheduler {
    fn run(
        &self,
        groups: Vec<Group>,
        batch_tokens: usize,
        cancelled: &Arc<AtomicBool>,
        answered: &mut dyn FnMut(Answer),
    ) -> std::result::Result<(), Cancelled> {
        let (answer, answers) = mpsc::channel();
        let waiting = groups
            .into_iter()
            .enumerate()
            .map(|(number, group)| Waiting {
                number,
                group,
                batch_tokens,
                cancelled: Arc::clone(cancelled),
                answer: answer.clone(),
            });
        let mut coming = waiting.collect::<VecDeque<_>>();
        drop(answer);
        let room = batch_tokens.saturating_mul(BATCHES_WAITING * self.replicas);
        let (mut missing, mut queued) = (coming.len(), 0);
        while missing > 0 {
            queued += self.shared.push(&mut coming, room.saturating_sub(queued));
            let mut next = match answers.recv_timeout(PATIENCE) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(Cancelled),
            };
            while let Some(answer) = next {
                missing -= 1;
                queued -= answer.group.tokens();
                answered(answer);
                next = answers.try_recv().ok();
            }
            if cancelled.load(Ordering::Relaxed) {
                self.shared.remove(cancelled);
                return Err(Cancelled);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves groups of about so many tokens into the queue; tells of how many.
    fn push(&self, coming: &mut VecDeque<Waiting>, room: usize) -> usize {
        let mut queue = self.lock();
        let mut tokens = 0;
        while tokens < room
            && let Some(waiting) = coming.pop_front()
        {
            tokens += waiting.group.tokens();
            queue.waiting.push_back(waiting);
        }
        drop(queue);
        if tokens > 0 {
            self.filled.notify_all();
        }
        tokens
    }

    fn remove(&self, cancelled: &Arc<AtomicBool>) {
        let is_wanted = |waiting: &Waiting| !Arc::ptr_eq(&waiting.cancelled, cancelled);
        self.lock().waiting.retain(is_wanted);
    }

    /// What one forward pass of up to `most_tokens` tokens takes from the front, at least one group;
    /// waits until there is some. Nothing once the queue is closed.
    fn next_batch(&self, most_tokens: usize) -> Option<Vec<Waiting>> {
        let mut queue = self.lock();
        let mut batch: Vec<Waiting> = Vec::new();
        let (mut tokens, mut budget) = (0, most_tokens);
        loop {
            while let Some(waiting) = queue.waiting.pop_front() {
                if waiting.cancelled.load(Ordering::Relaxed) {
                    continue;
                }
                let more = tokens_after(batch.last(), &waiting.group);
                if !batch.is_empty() && tokens + more > budget.min(waiting.batch_tokens) {
                    queue.waiting.push_front(waiting);
                    break;
                }
                tokens += more;
                budget = budget.min(waiting.batch_tokens);
                batch.push(waiting);
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            if queue.is_closed {
                return None;
            }
            let waited = self.filled.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tokens that a group adds to a batch that ends in another.
fn tokens_after(last: Option<&Waiting>, group: &Group) -> usize {
    let shared = last.map_or(0, |last| group.tokens_shared_with(&last.group));
    group.tokens() - shared.min(group.tokens())
}

/// One replica at work.
struct Worker {
    replica: Box<dyn Replica>,
    shared: Arc<Shared>,
    /// Lowered when the device has no memory for more.
    most_tokens: usize,
    /// Whether that was said.
    is_told: bool,
}

impl Worker {
    fn work(mut self) {
        while let Some(batch) = self.shared.next_batch(self.most_tokens) {
            self.compute(batch);
        }
    }

    /// Answers every group. A batch that fails is computed again in halves, so that a failure
    /// belongs to one group.
    fn compute(&mut self, mut batch: Vec<Waiting>) {
        batch.retain(|waiting| !waiting.cancelled.load(Ordering::Relaxed));
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        let groups: Vec<&Group> = batch.iter().map(|waiting| &waiting.group).collect();
        let previous = [None].into_iter().chain(batch.iter().map(Some));
        let tokens = groups.iter().zip(previous);
        let tokens: usize = tokens.map(|(group, last)| tokens_after(last, group)).sum();
        let computed = catch_unwind(AssertUnwindSafe(|| self.replica.forward(&groups)));
        let computed = computed.unwrap_or_else(|panic| Err(Error::msg(message(&*panic))));
        let took = began.elapsed();
        tracing::trace!(
            "a forward pass of {} rows, {tokens} tokens, in {took:?}",
            groups.len()
        );
        let of_groups: usize = groups.iter().map(|group| group.tokens()).sum();
        let each: Vec<Result<GroupOutput>> = match computed {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(error) if batch.len() == 1 => vec![Err(error)],
            Err(error) => {
                if is_out_of_memory(&error) {
                    self.most_tokens = self.most_tokens.min(tokens / 2);
                    let most = self.most_tokens;
                    if std::mem::replace(&mut self.is_told, true) {
                        tracing::debug!("going on with {most} tokens");
                    } else {
                        tracing::warn!(
                            "the device has no memory for {tokens} tokens at once; going on with \
                             {most}, or fewer if need be (ches.batch_tokens)"
                        );
                    }
                }
                let others = batch.split_off(batch.len() / 2);
                self.compute(batch);
                return self.compute(others);
            }
        };
        for (waiting, output) in batch.into_iter().zip(each) {
            let share = waiting.group.tokens() as f64 / of_groups.max(1) as f64;
            // Whoever asked may have gone.
            let _ = waiting.answer.send(Answer {
                number: waiting.number,
                group: waiting.group,
                output,
                model_time: took.mul_f64(share),
            });
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    // The driver's error, and cuBLAS's.
    let said = ["out of memory", "out_of_memory", "alloc_failed"];
    said.iter().any(|said| text.contains(said))
}

/// What a panic says.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::models::group::Embedding;
    use crate::texts::sequence::Sequence;

    /// A replica that answers with the ids it was asked for, slowly, and remembers its batches.
    #[derive(Debug, Default)]
    struct Fake {
        batches: Arc<Mutex<Vec<Vec<usize>>>>,
        takes: Duration,
        /// More tokens than this are too many.
        memory: Option<usize>,
    }

    impl Replica for Fake {
        fn forward(&self, groups: &[&Group]) -> Result<Vec<GroupOutput>> {
            std::thread::sleep(self.takes);
            let tokens: Vec<usize> = groups.iter().map(|group| group.tokens()).collect();
            let total: usize = tokens.iter().sum();
            self.batches.lock().unwrap().push(tokens);
            if self.memory.is_some_and(|most| total > most) {
                return Err(Error::msg("CUDA_ERROR_OUT_OF_MEMORY"));
            }
            let answer = |sequence: &Sequence| {
                if sequence.ids[0] == 13 {
                    return Err(Error::msg("unlucky"));
                }
                assert_ne!(sequence.ids[0], 666, "beastly");
                Ok(Embedding {
                    sum: vec![f64::from(sequence.ids[0])],
                    last: Vec::new(),
                    contexts: 1,
                    log_prob: None,
                })
            };
            let of_group = |group: &&Group| {
                let embeddings = group.sequences.iter().map(answer);
                Ok(GroupOutput {
                    embeddings: embeddings.collect::<Result<_>>()?,
                    displacement: None,
                    simulation: None,
                })
            };
            groups.iter().map(of_group).collect()
        }
    }

    fn group(id: u32, tokens: usize) -> Group {
        let sequence = Sequence {
            ids: vec![id; tokens],
            prompt_tokens: 1,
            truncated: false,
        };
        Group::new(vec![sequence], None, None)
    }

    fn start(fakes: Vec<Fake>) -> Scheduler {
        let boxed = fakes.into_iter().map(|fake| Box::new(fake) as _);
        Scheduler::start(boxed.collect()).unwrap()
    }

    /// The results of groups in order; of those that failed none.
    fn ask(scheduler: &Scheduler, groups: Vec<Group>, batch_tokens: usize) -> Vec<Option<u32>> {
        let mut results = vec![None; groups.len()];
        let cancelled = Arc::default();
        let mut answers = 0;
        scheduler
            .run(groups, batch_tokens, &cancelled, &mut |answer| {
                answers += 1;
                let output = answer.output.ok();
                results[answer.number] = output.map(|of| of.embeddings[0].sum[0] as u32);
            })
            .unwrap();
        assert_eq!(answers, results.len());
        results
    }

    #[test]
    fn batches_are_formed_by_tokens() {
        let fake = Fake::default();
        let batches = Arc::clone(&fake.batches);
        let scheduler = start(vec![fake]);
        let lengths = [500, 500, 500, 2000, 10, 10];
        // Ids differ, so that nothing is shared.
        let groups = lengths.iter().zip(1..).map(|(n, id)| group(id, *n));
        let results = ask(&scheduler, groups.collect(), 1024);
        assert_eq!(results, (1..7).map(Some).collect::<Vec<_>>());
        let expected: [&[usize]; 4] = [&[500, 500], &[500], &[2000], &[10, 10]];
        assert_eq!(*batches.lock().unwrap(), expected);
    }

    #[test]
    fn what_is_shared_counts_once() {
        let fake = Fake::default();
        let batches = Arc::clone(&fake.batches);
        let scheduler = start(vec![fake]);
        let group = |last| {
            let sequence = Sequence {
                ids: (0..100).chain([last]).collect(),
                prompt_tokens: 100,
                truncated: false,
            };
            Group::new(vec![sequence], None, None)
        };
        ask(&scheduler, (200..204).map(group).collect(), 103);
        let sizes: Vec<usize> = batches.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 1]);
    }

    #[test]
    fn callers_share_batches() {
        let fake = Fake {
            takes: Duration::from_millis(50),
            ..Fake::default()
        };
        let batches = Arc::clone(&fake.batches);
        let scheduler = start(vec![fake]);
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let scheduler = &scheduler;
                scope.spawn(move || {
                    let groups = (0..4).map(|at| group(1 + caller * 4 + at, 10));
                    let results = ask(scheduler, groups.collect(), 100);
                    let own = (0..4).map(|at| Some(1 + caller * 4 + at));
                    // 13 is unlucky.
                    let own = own.map(|id| id.filter(|id| *id != 13));
                    assert_eq!(results, own.collect::<Vec<_>>());
                });
            }
        });
        let full = batches
            .lock()
            .unwrap()
            .iter()
            .filter(|b| b.len() == 10)
            .count();
        assert!(full >= 4, "{:?}", batches.lock().unwrap());
    }

    #[test]
    fn replicas_share_the_work() {
        let fakes: [Fake; 3] = [40, 40, 160].map(|takes| Fake {
            takes: Duration::from_millis(takes),
            ..Fake::default()
        });
        let batches = [0, 1, 2].map(|at| Arc::clone(&fakes[at].batches));
        let scheduler = start(fakes.into());
        let groups: Vec<_> = (20..50).map(|id| group(id, 10)).collect();
        let results = ask(&scheduler, groups, 10);
        assert_eq!(results, (20..50).map(Some).collect::<Vec<_>>());
        let [fast, also, slow] = batches.map(|batches| batches.lock().unwrap().len());
        assert_eq!(fast + also + slow, 30);
        assert!(
            fast > 5 && also > 5 && slow > 0 && slow < fast,
            "{fast} {also} {slow}"
        );
    }

    #[test]
    fn a_failure_belongs_to_one_group() {
        let scheduler = start(vec![Fake::default()]);
        let ids = [1, 2, 13, 4, 666, 6];
        let groups: Vec<_> = ids.iter().map(|id| group(*id, 10)).collect();
        let results = ask(&scheduler, groups, 1000);
        assert_eq!(results, [Some(1), Some(2), None, Some(4), None, Some(6)]);
    }

    #[test]
    fn out_of_memory_backs_off() {
        let fake = Fake {
            memory: Some(45),
            ..Fake::default()
        };
        let batches = Arc::clone(&fake.batches);
        let scheduler = start(vec![fake]);
        let groups = || (20..40).map(|id| group(id, 10)).collect();
        let results = ask(&scheduler, groups(), 80);
        assert_eq!(results, (20..40).map(Some).collect::<Vec<_>>());
        batches.lock().unwrap().clear();
        ask(&scheduler, groups(), 80);
        let batches = batches.lock().unwrap();
        assert!(batches.iter().all(|batch| batch.len() <= 4), "{batches:?}");
    }

    /// What lies in the queue while `work` is done, at most.
    fn most_waiting(scheduler: &Scheduler, work: impl FnOnce()) -> usize {
        let most = AtomicUsize::new(0);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    most.fetch_max(scheduler.shared.lock().waiting.len(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            work();
            is_done.store(true, Ordering::Relaxed);
        });
        most.into_inner()
    }

    #[test]
    fn backing_off_counts_what_is_shared_once() {
        // A forward pass of it is 100 shared tokens and one more of each group.
        let sharing = |last| {
            let sequence = Sequence {
                ids: (50..150).chain([last]).collect(),
                prompt_tokens: 100,
                truncated: false,
            };
            Group::new(vec![sequence], None, None)
        };
        let batch: Vec<_> = (200..220).map(sharing).collect();
        let waiting = batch.into_iter().map(|group| Waiting {
            number: 0,
            group,
            batch_tokens: 1000,
            cancelled: Arc::default(),
            answer: mpsc::channel().0,
        });
        let mut worker = Worker {
            replica: Box::new(Fake {
                memory: Some(1500),
                ..Fake::default()
            }),
            shared: Arc::default(),
            most_tokens: usize::MAX,
            is_told: false,
        };
        worker.compute(waiting.collect());
        assert_eq!(worker.most_tokens, 60);
    }

    #[test]
    fn a_caller_with_a_full_share_waits() {
        let fake = Fake {
            takes: Duration::from_millis(20),
            ..Fake::default()
        };
        let scheduler = start(vec![fake]);
        let most = most_waiting(&scheduler, || {
            let groups = (100..160).map(|id| group(id, 10)).collect();
            let results = ask(&scheduler, groups, 20);
            assert_eq!(results, (100..160).map(Some).collect::<Vec<_>>());
        });
        assert!(most > 0 && most <= 2 * BATCHES_WAITING, "{most}");
    }

    #[test]
    fn small_budgets_are_not_starved_by_large_ones() {
        let fake = Fake {
            takes: Duration::from_millis(20),
            ..Fake::default()
        };
        let scheduler = start(vec![fake]);
        let large_is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ask(
                    &scheduler,
                    (1000..3000).map(|id| group(id, 10)).collect(),
                    400,
                );
                large_is_done.store(true, Ordering::Relaxed);
            });
            std::thread::sleep(Duration::from_millis(100));
            let results = ask(&scheduler, vec![group(1, 10), group(2, 10)], 10);
            assert_eq!(results, [Some(1), Some(2)]);
            assert!(!large_is_done.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn what_nobody_waits_for_leaves_the_queue() {
        let fake = Fake {
            takes: Duration::from_millis(100),
            ..Fake::default()
        };
        let batches = Arc::clone(&fake.batches);
        let scheduler = start(vec![fake]);
        let cancelled = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let groups = (20..60).map(|id| group(id, 10)).collect();
                scheduler.run(groups, 20, &cancelled, &mut |_| {})
            });
            std::thread::sleep(Duration::from_millis(150));
            cancelled.store(true, Ordering::Relaxed);
            assert!(caller.join().unwrap().is_err());
        });
        assert!(scheduler.shared.lock().waiting.is_empty());
        assert_eq!(ask(&scheduler, vec![group(1, 10)], 20), [Some(1)]);
        assert!(batches.lock().unwrap().len() < 6);
    }

    #[test]
    fn the_threads_end_with_the_scheduler() {
        let fake = Fake::default();
        let batches = Arc::downgrade(&fake.batches);
        let scheduler = start(vec![fake]);
        ask(&scheduler, vec![group(1, 10)], 20);
        drop(scheduler);
        let waited = Instant::now();
        while batches.upgrade().is_some() {
            assert!(waited.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
