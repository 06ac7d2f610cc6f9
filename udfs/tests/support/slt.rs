//! Running `.slt` files against DataFusion sessions.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::path::Path;

use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Record, Runner, strict_column_validator};

/// What a statement came to.
pub(crate) type Answer = DBOutput<DefaultColumnType>;

/// Statements that an engine cannot answer as the others do: a part of their SQL, and why.
pub(crate) type Exceptions = [(&'static str, &'static str)];

/// What answers the statements of one connection.
#[async_trait::async_trait]
pub(crate) trait Engine: Send {
    async fn run(&mut self, sql: &str) -> Result<Answer>;
}

#[async_trait::async_trait]
impl Engine for SessionContext {
    async fn run(&mut self, sql: &str) -> Result<Answer> {
        answer(self, sql).await
    }
}

/// What a session says to a statement.
pub(crate) async fn answer(ctx: &SessionContext, sql: &str) -> Result<Answer> {
    let frame = ctx.sql(sql).await?;
    let types: Vec<_> = frame
        .schema()
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => DefaultColumnType::Text,
            DataType::Float64 => DefaultColumnType::FloatingPoint,
            integer if integer.is_integer() => DefaultColumnType::Integer,
            _ => DefaultColumnType::Any,
        })
        .collect();
    let batches = frame.collect().await?;
    if types.is_empty() {
        return Ok(DBOutput::StatementComplete(0));
    }
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayFormatter| match column.value(row).to_string() {
                empty if empty.is_empty() => "(empty)".into(),
                text => text.replace('\n', "\\n"),
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    Ok(DBOutput::Rows { types, rows })
}

struct Connection<E>(E);

#[async_trait::async_trait]
impl<E: Engine> AsyncDB for Connection<E> {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<Answer> {
        self.0.run(sql).await
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "datafusion"
    }
}

/// Runs one file; `session` is called for each of its connections.
pub(crate) async fn run_file(path: &Path, session: impl Fn() -> SessionContext) {
    run_file_by(path, async || session(), &[]).await;
}

/// Runs one file but for some of its statements, and says which of the exceptions it met. `engine` is
/// called for each of its connections.
pub(crate) async fn run_file_by<E: Engine>(
    path: &Path,
    engine: impl AsyncFn() -> E,
    exceptions: &Exceptions,
) -> Vec<&'static str> {
    let mut runner = Runner::new(async || Ok(Connection(engine().await)));
    runner.with_column_validator(strict_column_validator);
    let mut met = Vec::new();
    let mut failures = Vec::new();
    let mut is_uncounted = false;
    for record in sqllogictest::parse_file(path).unwrap() {
        let sql = match &record {
            Record::Statement { sql, .. } | Record::Query { sql, .. } => sql,
            _ => "",
        };
        let exception = exceptions.iter().find(|(part, _)| sql.contains(part));
        let is_count = sql.contains("rows_scored()");
        if let Some((part, _)) = exception {
            met.push(*part);
            is_uncounted = true;
            continue;
        }
        let ran = runner.run_async(record).await;
        // What was left out is not counted either.
        let is_judged = !(is_count && is_uncounted);
        is_uncounted &= !is_count;
        if let Err(error) = ran
            && is_judged
        {
            failures.push(error.display(false).to_string());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    met
}
