//! What everything but the model and tokenization costs: a million short pairs through a scorer that
//! answers at once, from Parquet and back to it.
//!
//! Prints rows per second, CPU-seconds, the most memory at quarters of the way, and how long a dropped
//! query goes on: `cargo run --release --example throughput -p ches-udfs`.

#[path = "../../tests/support/counting.rs"]
mod counting;
#[allow(dead_code)]
#[path = "../tests/support/fake_scorer.rs"]
mod fake_scorer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ches_udfs::ChesSettings;
use datafusion::prelude::{SessionConfig, SessionContext};
use fake_scorer::FakeScorer;

const ROWS: usize = 1_000_000;

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn run(ctx: &SessionContext, sql: &str) {
    ctx.sql(sql).await.unwrap().collect().await.unwrap();
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().execution.parquet.pushdown_filters = true;
    let ctx = SessionContext::new_with_config(config).enable_url_table();
    let scorer = Arc::new(FakeScorer::default());
    let counts = Arc::clone(&scorer.counts);
    ches_udfs::register(&ctx, scorer, ChesSettings::default()).unwrap();
    let pairs = place("pairs.parquet");
    let make = format!(
        "COPY (SELECT value AS id, 'What is ' || value || ' plus one?' AS prompt, \
           'It is ' || (value + 1) || '.' AS chosen, repeat('I do not know. ', value % 3) AS rejected \
         FROM generate_series(1, {ROWS})) TO '{pairs}'"
    );
    run(&ctx, &make).await;

    let queries = [
        (
            "filter",
            "SELECT count(*) FROM '{pairs}' WHERE ches(prompt, chosen, rejected) > 0",
        ),
        (
            "filter, written to Parquet",
            "COPY (SELECT * FROM '{pairs}' WHERE ches_normalized(prompt, chosen, rejected) > 0) \
             TO '{out}'",
        ),
        (
            "every score, written to Parquet",
            "COPY (SELECT id, preference_scores(prompt, chosen, rejected) AS s FROM '{pairs}') \
             TO '{out}'",
        ),
    ];
    println!("| {ROWS} rows | rows/s | CPU-s | most MiB allocated, by quarter |");
    println!("|---|---|---|---|");
    for (name, query) in queries {
        let sql = query
            .replace("{pairs}", &pairs)
            .replace("{out}", &place("out.parquet"));
        counts.rows.store(0, Ordering::SeqCst);
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let counted = Arc::clone(&counts);
        let watch = tokio::spawn(async move {
            let mut peaks = Vec::new();
            counting::restart();
            for quarter in 1..=4 {
                while counted.rows.load(Ordering::SeqCst) < (quarter * ROWS / 4 * 9 / 10) as i64 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                peaks.push(format!("{:.0}", mib(counting::peak())));
                counting::restart();
            }
            peaks
        });
        run(&ctx, &sql).await;
        let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let peaks = watch.await.unwrap().join(", ");
        println!(
            "| {name} | {:.0} | {cpu:.1} | {peaks} |",
            ROWS as f64 / took
        );
    }

    let sql = queries[1]
        .1
        .replace("{pairs}", &pairs)
        .replace("{out}", &place("out.parquet"));
    counts.rows.store(0, Ordering::SeqCst);
    let query = tokio::spawn(async move { run(&ctx, &sql).await });
    while counts.rows.load(Ordering::SeqCst) < (ROWS / 10) as i64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    query.abort();
    let dropped = Instant::now();
    let mut last = (counts.rows.load(Ordering::SeqCst), Instant::now());
    while last.1.elapsed() < Duration::from_millis(300) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let rows = counts.rows.load(Ordering::SeqCst);
        if rows != last.0 {
            last = (rows, Instant::now());
        }
    }
    let after = last.1.duration_since(dropped);
    println!("\nA dropped query goes on for {} ms.", after.as_millis());
}
