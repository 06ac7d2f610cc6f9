//! What the model said of rows before, kept in this process and shared by queries.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ches_udfs::{Needs, ResponseEmbedding};
use datafusion::execution::memory_pool::MemoryPool;
use lru::LruCache;

use crate::decoder::{Displacement, Simulation};
use crate::scoring::accounting::Accounted;
use crate::texts::sequence::Sequence;

/// How long a row that somebody else computes is waited for between two looks at whether the
/// query still stands.
const PATIENCE: Duration = Duration::from_millis(100);

/// What makes two rows the same to a model: a 256-bit hash of everything that changes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// The key of a row's sequences under one model. `of_model` is its fingerprint and dtype,
    /// `end_token` what ends a response.
    pub(crate) fn new(of_model: &str, end_token: Option<u32>, sequences: &[Sequence]) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut number = |number: u64| {
            hasher.update(&number.to_le_bytes());
        };
        number(of_model.len() as u64);
        number(end_token.map_or(u64::MAX, u64::from));
        for sequence in sequences {
            number(sequence.ids.len() as u64);
            number(sequence.prompt_tokens as u64);
            number(sequence.truncated.into());
        }
        hasher.update(of_model.as_bytes());
        for id in sequences.iter().flat_map(|sequence| &sequence.ids) {
            hasher.update(&id.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The hash.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key that was written down.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The scores of a pair that come from hidden embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Similarities {
    /// `⟨S⁺, S⁻ − S⁺⟩`.
    pub ches: f64,
    /// `⟨S⁺/m⁺, S⁻/m⁻ − S⁺/m⁺⟩`.
    pub ches_normalized: f64,
    /// Inner product of the last hidden embeddings.
    pub last_hidden: f64,
}

/// What a forward pass over a row gave; what was not asked for is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ModelScores {
    /// Of a pair.
    pub similarities: Option<Similarities>,
    /// Of a single response.
    pub embedding: Option<Arc<ResponseEmbedding>>,
    /// For each response, nats.
    pub log_probs: Option<[f64; 2]>,
    /// Of a pair.
    pub displacement: Option<Arc<Displacement>>,
    /// Of a pair, one for each learning rate that a step was simulated with.
    pub simulations: Vec<(f64, Arc<Simulation>)>,
}

/// What is wanted of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wanted {
    pub needs: Needs,
    /// The step of a simulation.
    pub learning_rate: f64,
}

impl ModelScores {
    /// What they give at this learning rate.
    pub(crate) fn gives(&self, learning_rate: f64) -> Needs {
        let mut needs = Needs::empty();
        let has_embeddings = self.similarities.is_some() || self.embedding.is_some();
        needs.set(Needs::EMBEDDINGS, has_embeddings);
        needs.set(Needs::LOG_PROBS, self.log_probs.is_some());
        needs.set(Needs::DISPLACEMENT, self.displacement.is_some());
        let simulation = self.simulation(learning_rate);
        needs.set(Needs::SIMULATION, simulation.is_some());
        needs
    }

    /// The step with this learning rate.
    pub(crate) fn simulation(&self, learning_rate: f64) -> Option<&Arc<Simulation>> {
        let mut simulations = self.simulations.iter();
        let found = simulations.find(|(rate, _)| *rate == learning_rate);
        found.map(|(_, simulation)| simulation)
    }

    /// Takes over what `more` has.
    pub(crate) fn add(&mut self, more: Self) {
        self.similarities = more.similarities.or(self.similarities.take());
        self.embedding = more.embedding.or(self.embedding.take());
        self.log_probs = more.log_probs.or(self.log_probs.take());
        self.displacement = more.displacement.or(self.displacement.take());
        let is_newer = |rate: f64| more.simulations.iter().any(|(of, _)| *of == rate);
        self.simulations.retain(|(rate, _)| !is_newer(*rate));
        self.simulations.extend(more.simulations);
    }

    /// Bytes of memory that an entry takes, with its key and its places in two tables.
    pub(crate) fn bytes(&self) -> usize {
        const ENTRY: usize = size_of::<(Key, ModelScores)>() + 96;
        let vectors = self.embedding.as_ref().map_or(0, |embedding| {
            4 * (embedding.sum.len() + embedding.last.len()) + size_of::<ResponseEmbedding>()
        });
        let displacement = self.displacement.as_ref().map_or(0, |of| {
            size_of::<Displacement>() + size_of_val(&of.changes[..])
        });
        let simulations = self.simulations.iter().map(|(_, of)| {
            size_of::<(f64, Arc<Simulation>, Simulation)>() + size_of_val(&of.token_changes[..])
        });
        ENTRY + vectors + displacement + simulations.sum::<usize>()
    }
}

/// Scores by key, and which rows are being computed. The least recently used go first.
#[derive(Debug)]
pub(crate) struct Memo {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    entries: LruCache<Key, ModelScores>,
    bytes: usize,
    accounted: Accounted,
    in_flight: HashMap<Key, (Needs, Claim)>,
    claims: Claim,
}

impl State {
    /// Forgets the oldest until no more bytes are kept than may be and than the memory pool has.
    fn shrink(&mut self, most_bytes: usize) {
        while (self.bytes > most_bytes || !self.accounted.resize(self.bytes))
            && let Some((_, oldest)) = self.entries.pop_lru()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// Releases a row, unless somebody else has claimed it since.
    fn release(&mut self, key: &Key, claim: Claim) {
        if self.in_flight.get(key).is_some_and(|(_, of)| *of == claim) {
            self.in_flight.remove(key);
        }
    }
}

/// Who computes a row.
type Claim = NonZeroU64;

impl Default for Memo {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                entries: LruCache::unbounded(),
                bytes: 0,
                accounted: Accounted::new("ches memo"),
                in_flight: HashMap::new(),
                claims: Claim::MIN,
            }),
            changed: Condvar::new(),
        }
    }
}

/// How a row's scores are had.
enum Source {
    Known(ModelScores),
    /// By whoever claims these rows.
    Claimed,
    /// Another call computes it.
    InFlight,
}

/// The rows that one call computes. Dropping it leaves what it did not compute to others.
struct Claimed<'a> {
    memo: &'a Memo,
    claim: Claim,
    keys: Vec<Key>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut state = self.memo.lock();
        for key in &self.keys {
            state.release(key, self.claim);
        }
        drop(state);
        self.memo.changed.notify_all();
    }
}

impl Memo {
    /// The scores of every row. Those that are not known are computed by `compute`, which is
    /// given the positions of rows in `keys` and a function to call with each of their results and
    /// its number among them, in any order; rows that another call computes at this time are waited
    /// for. Returns with them how many rows were not computed by this call.
    ///
    /// At most `most_bytes` are kept after this call.
    ///
    /// # Errors
    /// Those of `compute`; `stopped` if `is_cancelled` while it waits.
    pub(crate) fn scores<E, R: Clone>(
        &self,
        keys: &[Key],
        wanted: Wanted,
        most_bytes: usize,
        is_cancelled: &AtomicBool,
        stopped: impl Fn() -> E,
        mut compute: impl FnMut(
            &[usize],
            &mut dyn FnMut(usize, Result<ModelScores, R>),
        ) -> Result<(), E>,
    ) -> Result<(Vec<Result<ModelScores, R>>, usize), E> {
        let mut results: Vec<Option<Result<ModelScores, R>>> = vec![None; keys.len()];
        // Equal rows of one call are one row.
        let mut first_of: HashMap<Key, usize> = HashMap::new();
        let is_first = |at: &usize| *first_of.entry(keys[*at]).or_insert(*at) == *at;
        let firsts: Vec<usize> = (0..keys.len()).filter(is_first).collect();
        let mut computed = 0;
        loop {
            let missing = firsts.iter().copied();
            let missing: Vec<usize> = missing.filter(|at| results[*at].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let (claimed, sources) = self.claim(keys, &missing, wanted);
            let mut mine = Vec::new();
            for (at, source) in missing.into_iter().zip(sources) {
                match source {
                    Source::Known(scores) => results[at] = Some(Ok(scores)),
                    Source::Claimed => mine.push(at),
                    Source::InFlight => {}
                }
            }
            if mine.is_empty() {
                drop(claimed);
                let waiting = firsts.iter().filter(|at| results[**at].is_none());
                let waiting: Vec<Key> = waiting.map(|at| keys[*at]).collect();
                if !waiting.is_empty() {
                    if is_cancelled.load(Ordering::Relaxed) {
                        return Err(stopped());
                    }
                    self.wait(&waiting);
                }
                continue;
            }
            computed += mine.len();
            compute(&mine, &mut |number, result| {
                let at = mine[number];
                if let Ok(scores) = &result {
                    self.remember(keys[at], claimed.claim, scores.clone(), most_bytes);
                }
                results[at] = Some(result);
            })?;
        }
        for (at, key) in keys.iter().enumerate() {
            if results[at].is_none() {
                results[at] = results[first_of[key]].clone();
            }
        }
        let remembered = keys.len() - computed;
        Ok((results.into_iter().flatten().collect(), remembered))
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, keys: &[Key], rows: &[usize], wanted: Wanted) -> (Claimed<'_>, Vec<Source>) {
        let needs = wanted.needs & Needs::MODEL;
        let mut state = self.lock();
        let claim = state.claims;
        state.claims = claim.saturating_add(1);
        let mut claimed = Vec::new();
        let mut source = |key: Key| {
            if let Some(scores) = state.entries.get(&key)
                && scores.gives(wanted.learning_rate).contains(needs)
            {
                return Source::Known(scores.clone());
            }
            match state.in_flight.get(&key) {
                Some((coming, _)) if coming.contains(needs) => Source::InFlight,
                // What comes is not enough: this row is computed again, for more.
                _ => {
                    state.in_flight.insert(key, (needs, claim));
                    claimed.push(key);
                    Source::Claimed
                }
            }
        };
        let sources = rows.iter().map(|at| source(keys[*at])).collect();
        drop(state);
        let claimed = Claimed {
            memo: self,
            claim,
            keys: claimed,
        };
        (claimed, sources)
    }

    /// Keeps the scores of a row that `claim` holds, and releases it.
    fn remember(&self, key: Key, claim: Claim, scores: ModelScores, most_bytes: usize) {
        let mut state = self.lock();
        let known = state.entries.pop(&key);
        state.bytes -= known.as_ref().map_or(0, ModelScores::bytes);
        let mut entry = known.unwrap_or_default();
        entry.add(scores);
        state.bytes += entry.bytes();
        state.entries.put(key, entry);
        state.release(&key, claim);
        state.shrink(most_bytes);
        drop(state);
        self.changed.notify_all();
    }

    /// Accounts what is kept to the pool of the query that asks now.
    pub(crate) fn account_to(&self, pool: &Arc<dyn MemoryPool>) {
        let mut state = self.lock();
        state.accounted.belong_to(pool);
        state.shrink(usize::MAX);
    }

    /// Waits until one of these rows may be known.
    fn wait(&self, waiting: &[Key]) {
        let state = self.lock();
        if waiting.iter().all(|key| state.in_flight.contains_key(key)) {
            let waited = self.changed.wait_timeout(state, PATIENCE);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Key {
        let sequence = Sequence {
            ids: vec![id],
            prompt_tokens: 1,
            truncated: false,
        };
        Key::new("model", None, &[sequence])
    }

    fn wanted(needs: Needs) -> Wanted {
        Wanted {
            needs,
            learning_rate: 2e-6,
        }
    }

    fn similar(value: f64) -> ModelScores {
        let similarities = Similarities {
            ches: value,
            ches_normalized: value,
            last_hidden: value,
        };
        ModelScores {
            similarities: Some(similarities),
            ..ModelScores::default()
        }
    }

    /// Asks for rows, of which the failing ones have an error; tells which were computed.
    fn ask(memo: &Memo, ids: &[u32], needs: Needs, most_bytes: usize) -> Vec<u32> {
        let keys: Vec<Key> = ids.iter().map(|id| key(*id)).collect();
        let mut computed = Vec::new();
        let compute = |rows: &[usize], each: &mut dyn FnMut(usize, Result<_, _>)| {
            computed.extend(rows.iter().map(|at| ids[*at]));
            let score = |at: &usize| {
                let id = ids[*at];
                if id == 13 {
                    return Err("unlucky");
                }
                let mut scores = similar(f64::from(id));
                if needs.contains(Needs::LOG_PROBS) {
                    scores.log_probs = Some([-1.0, -2.0]);
                }
                Ok(scores)
            };
            let scored = rows.iter().map(score).enumerate();
            scored.for_each(|(number, scores)| each(number, scores));
            Ok::<_, ()>(())
        };
        let cancelled = AtomicBool::new(false);
        let answer = memo.scores(&keys, wanted(needs), most_bytes, &cancelled, || (), compute);
        let (scores, remembered) = answer.unwrap();
        assert_eq!(remembered, ids.len() - computed.len());
        for (id, scores) in ids.iter().zip(scores) {
            match scores {
                Ok(scores) => {
                    assert_eq!(scores.similarities, similar(f64::from(*id)).similarities);
                    assert_eq!(
                        scores.log_probs.is_some(),
                        scores.gives(2e-6).contains(Needs::LOG_PROBS)
                    );
                    assert!(scores.gives(2e-6).contains(needs));
                }
                Err(reason) => assert_eq!((*id, reason), (13, "unlucky")),
            }
        }
        computed
    }

    #[test]
    fn a_row_is_computed_once() {
        let memo = Memo::default();
        assert_eq!(ask(&memo, &[1, 2, 1], Needs::EMBEDDINGS, 10_000), [1, 2]);
        assert_eq!(ask(&memo, &[2, 3], Needs::EMBEDDINGS, 10_000), [3]);
    }

    #[test]
    fn an_entry_that_is_not_enough_is_upgraded() {
        let memo = Memo::default();
        let both = Needs::EMBEDDINGS | Needs::LOG_PROBS;
        assert_eq!(ask(&memo, &[1, 2], Needs::EMBEDDINGS, 10_000), [1, 2]);
        assert_eq!(ask(&memo, &[1], both, 10_000), [1]);
        assert_eq!(ask(&memo, &[1, 2], Needs::LOG_PROBS, 10_000), [2]);
        assert!(ask(&memo, &[1, 2], both, 10_000).is_empty());
    }

    #[test]
    fn a_step_of_another_rate_is_another_step() {
        let simulation = Simulation {
            changes: [1.0, -1.0],
            token_changes: Vec::new(),
        };
        let scores = ModelScores {
            simulations: vec![(2e-6, Arc::new(simulation.clone()))],
            ..similar(1.0)
        };
        let both = Needs::EMBEDDINGS | Needs::SIMULATION;
        assert_eq!(scores.gives(2e-6), both);
        assert_eq!(scores.gives(3e-6), Needs::EMBEDDINGS);
        let mut all = scores.clone();
        all.add(ModelScores {
            simulations: vec![(3e-6, Arc::new(simulation))],
            ..ModelScores::default()
        });
        assert_eq!([2e-6, 3e-6].map(|rate| all.gives(rate)), [both; 2]);
        assert!(all.bytes() > scores.bytes());
        all.add(scores);
        assert_eq!(all.simulations.len(), 2);
    }

    #[test]
    fn failures_are_not_remembered() {
        let memo = Memo::default();
        assert_eq!(ask(&memo, &[13, 1], Needs::EMBEDDINGS, 10_000), [13, 1]);
        assert_eq!(ask(&memo, &[13, 1, 13], Needs::EMBEDDINGS, 10_000), [13]);
    }

    #[test]
    fn the_least_recently_used_entries_go() {
        let memo = Memo::default();
        let room = 3 * similar(0.0).bytes();
        ask(&memo, &[1, 2, 3], Needs::EMBEDDINGS, room);
        assert_eq!(memo.bytes(), room);
        assert_eq!(ask(&memo, &[1, 4], Needs::EMBEDDINGS, room), [4]);
        assert_eq!(memo.bytes(), room);
        assert_eq!(ask(&memo, &[1, 3, 4], Needs::EMBEDDINGS, room), [0; 0]);
        assert_eq!(ask(&memo, &[2], Needs::EMBEDDINGS, room), [2]);
        ask(&memo, &[5], Needs::EMBEDDINGS, 0);
        assert_eq!(memo.bytes(), 0);
    }

    #[test]
    fn the_key_is_all_that_changes_a_number() {
        let sequence = |ids: &[u32], prompt_tokens, truncated| Sequence {
            ids: ids.to_vec(),
            prompt_tokens,
            truncated,
        };
        let keys = [
            Key::new("a", None, &[sequence(&[1, 2], 1, false)]),
            Key::new("b", None, &[sequence(&[1, 2], 1, false)]),
            Key::new("a", Some(2), &[sequence(&[1, 2], 1, false)]),
            Key::new("a", None, &[sequence(&[1, 2], 2, false)]),
            Key::new("a", None, &[sequence(&[1, 2], 1, true)]),
            Key::new(
                "a",
                None,
                &[sequence(&[1], 1, false), sequence(&[2], 1, false)],
            ),
            Key::new("a", None, &[sequence(&[1, 3], 1, false)]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
    }

    #[test]
    fn a_row_in_flight_is_waited_for_and_taken_over_when_it_is_dropped() {
        let memo = Memo::default();
        let cancelled = AtomicBool::new(false);
        let (began, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let compute = |_: &[usize], _: &mut dyn FnMut(usize, Result<_, ()>)| {
                    began.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(200));
                    Err("dropped")
                };
                let keys = [key(1)];
                memo.scores(
                    &keys,
                    wanted(Needs::EMBEDDINGS),
                    10_000,
                    &cancelled,
                    || "",
                    compute,
                )
            });
            begins.recv().unwrap();
            let second = scope.spawn(|| ask(&memo, &[1], Needs::EMBEDDINGS, 10_000));
            assert_eq!(first.join().unwrap(), Err("dropped"));
            assert_eq!(second.join().unwrap(), [1]);
        });
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let compute = |_: &[usize], each: &mut dyn FnMut(usize, Result<_, ()>)| {
                    began.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(200));
                    each(0, Ok(similar(2.0)));
                    Ok::<_, ()>(())
                };
                let keys = [key(2)];
                memo.scores(
                    &keys,
                    wanted(Needs::EMBEDDINGS),
                    10_000,
                    &cancelled,
                    || (),
                    compute,
                )
            });
            begins.recv().unwrap();
            let second = scope.spawn(|| ask(&memo, &[2], Needs::EMBEDDINGS, 10_000));
            assert!(second.join().unwrap().is_empty());
            assert_eq!(first.join().unwrap().unwrap().1, 0);
        });
    }

    #[test]
    fn waiting_ends_when_the_query_is_dropped() {
        let memo = Memo::default();
        let (_claimed, _) = memo.claim(&[key(1)], &[0], wanted(Needs::EMBEDDINGS));
        let cancelled = AtomicBool::new(true);
        let compute = |_: &[usize], _: &mut dyn FnMut(usize, Result<_, ()>)| Ok(());
        let keys = [key(1)];
        let answer = memo.scores(
            &keys,
            wanted(Needs::EMBEDDINGS),
            1,
            &cancelled,
            || "stopped",
            compute,
        );
        assert_eq!(answer.unwrap_err(), "stopped");
    }
}
