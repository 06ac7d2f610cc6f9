//! Random queries with scores in random places give what they give over a table that has the
//! scores as columns.
//!
//! `CHES_SEED` makes other queries than the usual ones, `CHES_QUERIES` is their number. A failure
//! names the seed that makes its query alone.

use std::fmt::Display;
use std::str::FromStr;

use crate::support::random_query::{Coverage, Generator, PLACES, tables};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::array_value_to_string;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

const ROWS: usize = 60;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// A result as lines of text, in no order. Numbers keep nine digits: sums may be in any order.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let cells: Vec<Vec<String>> = batch
            .columns()
            .iter()
            .map(|column| {
                if column.data_type().is_numeric() {
                    let numbers = cast(column, &DataType::Float64).unwrap();
                    let numbers = numbers.as_primitive::<Float64Type>();
                    let number = |number: Option<f64>| match number {
                        None => "NULL".into(),
                        Some(zero) if zero.abs() < 1e-9 => "0".into(),
                        Some(number) => format!("{number:.8e}"),
                    };
                    return numbers.iter().map(number).collect();
                }
                (0..column.len())
                    .map(|row| array_value_to_string(column, row).unwrap())
                    .collect()
            })
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<_> = cells.iter().map(|column| column[row].as_str()).collect();
            lines.push(cells.join(" | "));
        }
    }
    lines.sort();
    lines
}

async fn run(ctx: &SessionContext, sql: &str) -> Result<Vec<String>> {
    Ok(lines(&ctx.sql(sql).await?.collect().await?))
}

fn listed<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_agree_with_stored_scores() {
    let seed: u64 = setting("CHES_SEED", 2026);
    let queries: u64 = setting("CHES_QUERIES", 2000);
    println!("CHES_SEED={seed} CHES_QUERIES={queries}");

    let ctx = crate::support::fake_scorer::session();
    for table in tables(ROWS) {
        run(&ctx, &table).await.unwrap();
    }
    let mut coverage = Coverage::default();
    let (mut compared, mut rows, mut refused) = (0, 0, Vec::new());
    for at in 0..queries {
        let query = Generator::new(seed.wrapping_add(at), &mut coverage).query();
        let place = || {
            format!(
                "CHES_SEED={} CHES_QUERIES=1\n{}",
                seed.wrapping_add(at),
                query.calling
            )
        };
        let expected = match run(&ctx, &query.stored).await {
            Ok(lines) => lines,
            // Not a query that DataFusion can answer, with or without scores.
            Err(error) => {
                refused.push(format!("{error}\n{}", query.stored));
                continue;
            }
        };
        match run(&ctx, &query.calling).await {
            Ok(found) if found == expected => {}
            Ok(found) => panic!(
                "{}\nfound\n{}\nexpected\n{}\nof {}",
                place(),
                found.join("\n"),
                expected.join("\n"),
                query.stored,
            ),
            Err(error) => panic!("{}\n{error}\nthe stored scores give {expected:?}", place()),
        }
        compared += 1;
        rows += expected.len();
    }

    println!("{compared} queries compared, {rows} rows");
    let counts = coverage
        .places
        .iter()
        .map(|(place, count)| format!("{place} {count}"));
    println!("places: {}", listed(counts));
    println!(
        "pairs of places: {} of {}",
        coverage.together.len(),
        PLACES.len() * (PLACES.len() - 1) / 2
    );
    let counts = coverage
        .together
        .iter()
        .map(|((a, b), count)| format!("{a} + {b} {count}"));
    println!("{}", listed(counts));
    assert!(
        refused.len() as u64 * 20 <= queries,
        "{} queries were refused, the first: {}",
        refused.len(),
        refused[0]
    );
    if queries >= 2000 {
        let missing = PLACES
            .iter()
            .filter(|place| !coverage.places.contains_key(*place));
        let missing = listed(missing);
        assert!(missing.is_empty(), "no query had a score in: {missing}");
    }
}
