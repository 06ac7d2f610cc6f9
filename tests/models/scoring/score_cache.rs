//! Scores that outlive the process: who computes what, and what damage does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::tiny_gguf::tiny_llama;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::{Ches, ModelScorer, Observer, compact_cache, flush_cache};
use tempfile::TempDir;

const C: &str = "ches(prompt, chosen, rejected)";

#[derive(Debug, Default)]
struct Counts {
    computed: AtomicUsize,
    cached: AtomicUsize,
}

impl Observer for Counts {
    fn scored(&self, rows: usize, _tokens: usize) {
        self.computed.fetch_add(rows, Ordering::SeqCst);
    }

    fn cached(&self, rows: usize, _tokens: usize) {
        self.cached.fetch_add(rows, Ordering::SeqCst);
    }
}

/// One test at a time, since each flushes the caches of all.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Fixture {
    folder: TempDir,
    _turn: tokio::sync::MutexGuard<'static, ()>,
    /// How many processes there were.
    processes: AtomicUsize,
}

/// What stands for a process: it shares no memory with others, only the directory of scores.
struct Process {
    ctx: SessionContext,
    counts: Arc<Counts>,
}

impl Fixture {
    async fn new() -> Self {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tiny.gguf"), tiny_llama().bytes()).unwrap();
        Self {
            folder,
            _turn: turn,
            processes: AtomicUsize::new(0),
        }
    }

    fn scores(&self) -> PathBuf {
        self.folder.path().join("scores")
    }

    /// Caches of a process are shared by the place's name, so each has another one.
    async fn process(&self) -> Process {
        let number = self.processes.fetch_add(1, Ordering::SeqCst);
        let place = format!("{}{}", self.scores().display(), "/.".repeat(number));
        let counts = Arc::new(Counts::default());
        let scorer = ModelScorer::new().with_observer(Arc::clone(&counts) as _);
        let ches = Ches::new()
            .with_scorer(Arc::new(scorer))
            .with_model(self.folder.path().join("tiny.gguf").to_str().unwrap())
            .with_memo_bytes(0)
            // Each row alone, so that those which are computed again are equal to the last bit.
            .with_batch_tokens(1)
            .with_cache(&place)
            .unwrap();
        let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        ches.register(&ctx).unwrap();
        let pairs = "CREATE TABLE pairs AS SELECT value AS id, \
             translate(CAST(value AS VARCHAR), '0123456789', 'cdefghijkl') AS prompt, \
             repeat('y', 1 + value % 3) AS chosen, 'no' AS rejected FROM generate_series(1, 600)";
        ctx.sql(pairs).await.unwrap().collect().await.unwrap();
        Process { ctx, counts }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let models = std::fs::read_dir(self.scores().join("v1")).unwrap();
        for model in models.map(|entry| entry.unwrap().path()) {
            if model.is_dir() {
                let inside = std::fs::read_dir(model).unwrap();
                files.extend(inside.map(|entry| entry.unwrap().path()));
            }
        }
        files.sort();
        files
    }
}

impl Process {
    async fn try_run(&self, sql: &str) -> Result<String, String> {
        let frame = self.ctx.sql(sql).await.map_err(|error| error.to_string())?;
        let batches = frame.collect().await.map_err(|error| error.to_string())?;
        Ok(pretty_format_batches(&batches).unwrap().to_string())
    }

    /// Scores of rows, in order.
    async fn score(&self, score: &str, rows: &str) -> String {
        let sql = format!("SELECT id, {score} FROM pairs WHERE id BETWEEN {rows} ORDER BY id");
        let found = self.try_run(&sql).await.unwrap();
        flush_cache(Duration::from_secs(10)).unwrap();
        found
    }

    /// Rows that were computed, and rows that the cache had, since last asked.
    fn took(&self) -> [usize; 2] {
        let Counts { computed, cached } = &*self.counts;
        [computed, cached].map(|count| count.swap(0, Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_compute_what_is_missing() {
    let fixture = Fixture::new().await;
    let first = fixture.process().await;
    let scores = first.score(C, "1 AND 300").await;
    assert_eq!(first.took(), [300, 0]);
    assert_eq!(first.score(C, "1 AND 300").await, scores);
    assert_eq!(first.took(), [0, 300]);

    let second = fixture.process().await;
    assert_eq!(second.score(C, "1 AND 300").await, scores);
    assert_eq!(second.took(), [0, 300]);
    second.score(C, "201 AND 500").await;
    assert_eq!(second.took(), [200, 100]);
    first.score(C, "401 AND 600").await;
    assert_eq!(first.took(), [200, 0]);
    let third = fixture.process().await;
    third.score(C, "1 AND 600").await;
    assert_eq!(third.took(), [0, 600]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_a_number_is_computed_again() {
    let fixture = Fixture::new().await;
    let first = fixture.process().await;
    first.score(C, "1 AND 50").await;
    assert_eq!(first.took(), [50, 0]);
    let all = "preference_scores(prompt, chosen, rejected)";
    let scores = first.score(all, "1 AND 50").await;
    assert_eq!(first.took(), [50, 0]);
    let rates = "displacement(prompt, chosen, rejected)";
    let displaced = first.score(rates, "1 AND 50").await;
    let step = "displacement_simulated(prompt, chosen, rejected)";
    let simulated = first.score(step, "1 AND 50").await;
    let embedding = "response_embedding(prompt, chosen)";
    let embedded = first.score(embedding, "1 AND 50").await;
    assert_eq!(first.took(), [150, 0]);

    let second = fixture.process().await;
    for (score, found) in [
        (all, scores),
        (rates, displaced),
        (step, simulated),
        (embedding, embedded),
    ] {
        assert_eq!(second.score(score, "1 AND 50").await, found, "{score}");
        assert_eq!(second.took(), [0, 50], "{score}");
    }
    // Each of these needs something else of the same rows.
    for score in [embedding, "log_prob(prompt, chosen)", embedding] {
        second.score(score, "1 AND 50").await;
    }
    assert_eq!(second.took(), [50, 100]);
    for setting in ["learning_rate = 1e-5", "max_length = 3"] {
        let set = format!("SET ches.{setting}");
        second.try_run(&set).await.unwrap();
        second.score(step, "1 AND 50").await;
        assert!(second.took()[0] > 0, "{setting}");
    }
    for setting in ["max_length = 0", "batch_tokens = 7", "top_tokens = 2"] {
        let set = format!("SET ches.{setting}");
        second.try_run(&set).await.unwrap();
        second.score(C, "1 AND 50").await;
        assert_eq!(second.took(), [0, 50], "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_ignored() {
    let fixture = Fixture::new().await;
    let first = fixture.process().await;
    let mut expected = String::new();
    for rows in ["1 AND 100", "101 AND 200", "201 AND 300", "301 AND 400"] {
        first.score(C, rows).await;
    }
    expected += &first.score(C, "1 AND 400").await;
    let files = fixture.files();
    assert_eq!(files.len(), 4);
    let damage = |file: &Path, change: fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(file).unwrap();
        change(&mut bytes);
        std::fs::write(file, bytes).unwrap();
    };
    damage(&files[0], |bytes| bytes.truncate(bytes.len() / 2));
    // One score of one row.
    damage(&files[1], |bytes| bytes[4000] ^= 1);
    damage(&files[2], Vec::clear);
    let folder = files[0].parent().unwrap();
    std::fs::write(folder.join("0-junk.parquet"), "junk").unwrap();
    std::fs::create_dir(folder.join("1.parquet")).unwrap();
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();

    let second = fixture.process().await;
    assert_eq!(second.score(C, "1 AND 400").await, expected);
    let [computed, cached] = second.took();
    assert_eq!(computed + cached, 400);
    assert!((201..=210).contains(&computed), "{computed}");
    assert!(folder.join("notes.txt").exists() && files[0].exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_loses_nothing() {
    let fixture = Fixture::new().await;
    let (first, reader) = (fixture.process().await, fixture.process().await);
    for from in (1..600).step_by(50) {
        let rows = format!("{from} AND {}", from + 49);
        first.score(C, &rows).await;
    }
    // Some rows twice, with more.
    first.score("log_prob(prompt, chosen)", "1 AND 50").await;
    let all = "preference_scores(prompt, chosen, rejected)['chosen_logprob']";
    first.score(all, "1 AND 50").await;
    let scores = reader.score(C, "1 AND 600").await;
    reader.took();
    assert_eq!(fixture.files().len(), 14);
    std::fs::write(fixture.files()[0].with_file_name("0.parquet"), "junk").unwrap();

    let done = compact_cache(fixture.scores().to_str().unwrap())
        .await
        .unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].files, done[0].rows), ([15, 2], [700, 650]));
    assert_eq!(done[0].ignored.len(), 1);
    assert_eq!(fixture.files().len(), 2);
    assert_eq!(reader.score(C, "1 AND 600").await, scores);

    let second = fixture.process().await;
    assert_eq!(second.score(C, "1 AND 600").await, scores);
    second.score(all, "1 AND 50").await;
    second.score("log_prob(prompt, chosen)", "1 AND 50").await;
    assert_eq!(second.took(), [0, 700]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_written_is_said_at_once() {
    let fixture = Fixture::new().await;
    std::fs::write(fixture.scores(), "a file").unwrap();
    let process = fixture.process().await;
    let error = process
        .try_run(&format!("SELECT {C} FROM pairs"))
        .await
        .unwrap_err();
    assert!(
        error.contains("ches.cache: ") && error.contains("scores"),
        "{error}"
    );
    assert_eq!(process.took(), [0, 0]);
}
