//! Rows that are made ready while others are scored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use async_trait::async_trait;
use ches_udfs::{
    ChesSettings, Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError,
    Scorer, ScorerError, Text, register,
};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

/// Scores a pair by the number that its prompt is; every other call takes long. Fails at -1.
#[derive(Debug, Default)]
struct Slow {
    calls: Mutex<Vec<usize>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

#[async_trait]
impl Scorer for Slow {
    async fn score_pairs(
        &self,
        _job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        let running = 1 + self.running.fetch_add(1, Ordering::SeqCst);
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(pairs.len());
            calls.len()
        };
        tokio::time::sleep(Duration::from_millis(if number.is_multiple_of(2) {
            2
        } else {
            20
        }))
        .await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let score = |pair: PreferencePair| {
            let Text::Plain(prompt) = pair.prompt else {
                return Err(RowError::of_row("no text"));
            };
            match prompt.parse::<f64>() {
                Ok(-1.0) | Err(_) => Err(RowError::of_row(format!("found {prompt}"))),
                Ok(number) => Ok(PairScores {
                    ches: Some(number),
                    ..PairScores::default()
                }),
            }
        };
        Ok(pairs.into_iter().map(score).collect())
    }

    async fn score_responses(
        &self,
        _job: &Job,
        _responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        Ok(Vec::new())
    }
}

fn session() -> (SessionContext, Arc<Slow>) {
    let scorer = Arc::new(Slow::default());
    let config = SessionConfig::new().with_target_partitions(1);
    let ctx = SessionContext::new_with_config(config);
    register(&ctx, Arc::clone(&scorer) as _, ChesSettings::default()).unwrap();
    (ctx, scorer)
}

fn query(value: &str) -> String {
    format!(
        "SELECT value, ches(CAST({value} AS VARCHAR), 'a', 'b') AS score \
         FROM generate_series(1, 10000)"
    )
}

#[tokio::test]
async fn batches_overlap_and_keep_their_order() {
    let (ctx, scorer) = session();
    let batches = ctx.sql(&query("value")).await.unwrap();
    let batches = batches.collect().await.unwrap();
    let mut expected = 1;
    for batch in &batches {
        let values = batch.column(0).as_primitive::<Int64Type>().values();
        let scores = batch.column(1).as_primitive::<Float64Type>().values();
        for (value, score) in values.iter().zip(scores) {
            assert_eq!((*value, *score), (expected, expected as f64));
            expected += 1;
        }
    }
    assert_eq!(expected, 10_001);
    let calls = scorer.calls.lock().unwrap();
    // 32 rows first, twice as many each time, at most 1,024.
    assert_eq!(calls[..6], [32, 64, 128, 256, 512, 1024]);
    assert_eq!(calls.iter().sum::<usize>(), 10_000);
    assert_eq!(scorer.most_running.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_limit_ends_the_work() {
    let (ctx, scorer) = session();
    let sql = format!(
        "SELECT * FROM ({}) WHERE score > 10 LIMIT 5",
        query("value")
    );
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        5
    );
    assert_eq!(*scorer.calls.lock().unwrap(), [32]);
}

#[tokio::test]
async fn what_comes_before_a_failure_of_the_input_comes_out() {
    let (ctx, scorer) = session();
    ctx.sql("SET datafusion.execution.batch_size = 256")
        .await
        .unwrap();
    let rows = "SELECT value FROM generate_series(1, 10000) \
                WHERE CAST(CASE WHEN value < 2000 THEN '1' ELSE 'x' END AS INT) = 1";
    let scored = format!("SELECT ches(CAST(value AS VARCHAR), 'a', 'b') AS score FROM ({rows})");
    let limited = format!("SELECT * FROM ({scored}) WHERE score > 0 LIMIT 900");
    let batches = ctx.sql(&limited).await.unwrap().collect().await.unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        900
    );
    let found = ctx.sql(&scored).await.unwrap().collect().await;
    assert!(found.unwrap_err().to_string().contains("'x'"));
    assert!(scorer.calls.lock().unwrap().len() > 5);
}

#[tokio::test]
async fn a_failure_ends_the_query() {
    let (ctx, scorer) = session();
    let value = "CASE WHEN value = 3000 THEN -1 ELSE value END";
    let found = ctx.sql(&query(value)).await.unwrap().collect().await;
    let error = found.unwrap_err().to_string();
    assert!(error.contains("found -1"), "{error}");
    assert!(scorer.calls.lock().unwrap().iter().sum::<usize>() < 6000);
}

/// A dictionary's one text and a constant are large for every row that has them.
#[tokio::test]
async fn large_texts_are_scored_few_at_a_time() {
    const MB: usize = 1 << 20;
    const ROWS: usize = 200;
    let (ctx, scorer) = session();
    let large = "b".repeat(20 * MB);
    let small = vec!["b"; ROWS / 2];
    let halves = [
        vec![large.as_str(); ROWS / 2],
        [&small[1..], &[&large]].concat(),
    ];
    let batch = |rejected: &Vec<&str>| {
        let rejected: DictionaryArray<Int32Type> = rejected.iter().copied().collect();
        RecordBatch::try_from_iter([("rejected", Arc::new(rejected) as ArrayRef)]).unwrap()
    };
    let batches: Vec<RecordBatch> = halves.iter().map(batch).collect();
    let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
    ctx.register_table("pairs", Arc::new(table)).unwrap();
    let calls = async |prompt: &str, rejected: &str| {
        scorer.calls.lock().unwrap().clear();
        let sql = format!("SELECT ches({prompt}, 'a', {rejected}) AS score FROM pairs");
        let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, ROWS);
        std::mem::take(&mut *scorer.calls.lock().unwrap())
    };
    let of_dictionary = calls("'1'", "rejected").await;
    // The last has one large text at its beginning and one at its end.
    assert_eq!(of_dictionary, [[3; 33].as_slice(), &[101]].concat());
    let of_literal = calls("repeat('1', 21000000)", "left(rejected, 1)").await;
    assert!(of_literal.iter().all(|rows| *rows <= 3), "{of_literal:?}");
}
