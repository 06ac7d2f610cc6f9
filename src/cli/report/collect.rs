//! What the report tells of a table or query: one pass over its rows, of which only the scores and
//! the worst pairs' texts are kept.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Float64Type, Int32Type, Schema};
use ches_udfs::{Content, FieldValue, PairReader, PreferencePair, Text, Turn};
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;

use super::{ReportData, Scored, Shown};

/// So many pairs are shown of each kind of worst.
const SHOWN: usize = 20;

/// The columns that are read, as functions take them; the first is not needed.
const COLUMNS: [&str; 3] = ["prompt", "chosen", "rejected"];

/// Scores every row of a table, a file or a query.
///
/// # Errors
/// When it cannot be read or scored, or has not the columns `chosen` and `rejected`. A row without
/// scores is counted.
pub(super) async fn collect(ctx: &SessionContext, source: &str) -> Result<ReportData> {
    let rows = rows_of(ctx, source).await?;
    let schema = rows.schema();
    let has = |name: &&&str| schema.fields().iter().any(|field| field.name() == **name);
    let columns: Vec<&str> = COLUMNS.iter().filter(has).copied().collect();
    if !columns.ends_with(&COLUMNS[1..]) {
        let found: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return plan_err!(
            "a report needs the columns chosen and rejected, in lower case, and prompt unless they \
             repeat it; '{source}' has {}. Give a query that names them, such as SELECT question AS prompt, \
             good AS chosen, bad AS rejected FROM pairs",
            found.join(", ")
        );
    }
    let arguments = columns.join(", ");
    let scores = ["preference_scores", "displacement"].map(|name| format!("{name}({arguments})"));
    let mut expressions = columns.clone();
    expressions.extend(scores.iter().map(String::as_str));
    let parsed = expressions.iter().map(|sql| rows.parse_sql_expr(sql));
    let scored = rows.clone().select(parsed.collect::<Result<Vec<_>>>()?)?;
    let mut batches = scored.execute_stream().await?;
    let mut collected = Collected {
        texts: columns.len(),
        ..Collected::default()
    };
    let facts = facts(&batches.schema(), ctx);
    while let Some(batch) = batches.next().await {
        collected.add(&batch?)?;
    }
    Ok(ReportData {
        title: "Preference data by CHES and displacement".into(),
        source: source.to_owned(),
        arguments,
        facts,
        rows: collected.rows,
        without_score: collected.without_score.into_iter().collect(),
        scored: collected.scored,
        worst: collected.worst.into_pairs(),
        worst_by_ches: collected.worst_by_ches.into_pairs(),
    })
}

/// The rows of a query, of a table by its name, or of a file or URL.
async fn rows_of(ctx: &SessionContext, source: &str) -> Result<DataFrame> {
    let dialect = ctx.copied_config().options().sql_parser.dialect;
    if ctx.state().sql_to_statement(source, &dialect).is_ok() {
        let queries_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        return ctx.sql_with_options(source, queries_only).await;
    }
    let is_name = source
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '"'));
    if is_name && let Ok(rows) = ctx.sql(&format!("SELECT * FROM {source}")).await {
        return Ok(rows);
    }
    let quoted = source.replace('\'', "''");
    ctx.sql(&format!("SELECT * FROM '{quoted}'")).await
}

/// Where the scores come from, as their columns' metadata says, and when.
fn facts(schema: &Schema, ctx: &SessionContext) -> Vec<(String, String)> {
    let config = ctx.copied_config();
    let mut settings: HashMap<String, String> = config
        .options()
        .entries()
        .into_iter()
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect();
    let of_scores = schema.fields().iter().flat_map(|field| field.metadata());
    let mut provenance: HashMap<&str, &str> = HashMap::new();
    provenance.extend(of_scores.map(|(key, value)| (key.as_str(), value.as_str())));
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| (name.to_owned(), value)));
    };
    let of = |key: &str| provenance.get(key).map(|value| (*value).to_owned());
    add("model", settings.remove("ches.model"));
    add("fingerprint", of("ches.model"));
    add("dtype", of("ches.dtype"));
    add("template", of("ches.template"));
    add("max_length", of("ches.max_length").filter(|n| n != "0"));
    add("datafusion-ches", of("ches.version"));
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let now = chrono::DateTime::from_timestamp(since.as_secs() as i64, 0);
    add(
        "made",
        now.map(|now| now.format("%Y-%m-%d %H:%M UTC").to_string()),
    );
    facts
}

#[derive(Default)]
struct Collected {
    /// How many of the columns are texts.
    texts: usize,
    rows: u64,
    without_score: HashMap<String, u64>,
    scored: Vec<Scored>,
    worst: Worst,
    worst_by_ches: Worst,
}

impl Collected {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let texts = &batch.columns()[..self.texts];
        let texts = PairReader::try_new(texts)?;
        let [scores, rates] = &batch.columns()[self.texts..] else {
            return Err(exec_datafusion_err!(
                "a batch of {} columns",
                batch.num_columns()
            ));
        };
        let (scores, rates) = (Row(scores.as_struct()), Row(rates.as_struct()));
        for row in 0..batch.num_rows() {
            self.rows += 1;
            let Some(scored) = scored(&scores, &rates, row) else {
                let reason = scores.text("error", row).or(rates.text("error", row));
                let reason = reason.unwrap_or_else(|| "a NULL in its texts".into());
                *self.without_score.entry(reason).or_default() += 1;
                continue;
            };
            let by_rate = scored.chosen_rate_per_token;
            let by_ches = -scored.ches_normalized;
            self.scored.push(scored.clone());
            for (worst, score) in [
                (&mut self.worst, by_rate),
                (&mut self.worst_by_ches, by_ches),
            ] {
                worst.add(score, || {
                    let [prompt, chosen, rejected] = shown_texts(&texts, row);
                    Shown {
                        row: self.rows,
                        prompt,
                        chosen,
                        rejected,
                        scores: scored.clone(),
                        gaining: rates.tokens("gaining", row),
                        losing: rates.tokens("losing", row),
                    }
                });
            }
        }
        Ok(())
    }
}

/// The scores of a row, unless it has none.
fn scored(scores: &Row, rates: &Row, row: usize) -> Option<Scored> {
    let tokens = |name| u32::try_from(scores.whole(name, row)?).ok();
    Some(Scored {
        ches: scores.number("ches", row)?,
        ches_normalized: scores.number("ches_normalized", row)?,
        last_hidden_similarity: scores.number("last_hidden_similarity", row)?,
        normalized_edit_distance: scores.number("normalized_edit_distance", row)?,
        chosen_rate_per_token: rates.number("chosen_rate_per_token", row)?,
        rejected_rate_per_token: rates.number("rejected_rate_per_token", row)?,
        chosen_rate: rates.number("chosen_rate", row)?,
        rejected_rate: rates.number("rejected_rate", row)?,
        overlap: rates.number("overlap", row),
        chosen_logprob: scores.number("chosen_logprob", row)?,
        rejected_logprob: scores.number("rejected_logprob", row)?,
        chosen_tokens: tokens("chosen_tokens")?,
        rejected_tokens: tokens("rejected_tokens")?,
        prompt_tokens: tokens("prompt_tokens")?,
        truncated: scores.truth("truncated", row)?,
    })
}

/// Prompt, chosen and rejected, as text.
fn shown_texts(texts: &PairReader, row: usize) -> [String; 3] {
    match texts.pair(row) {
        Some(Ok(PreferencePair {
            prompt,
            chosen,
            rejected,
            ..
        })) => [prompt, chosen, rejected].map(shown),
        _ => Default::default(),
    }
}

fn shown(text: Text) -> String {
    match text {
        Text::Plain(text) | Text::Transcript(text) => text,
        Text::Turns(turns) => match &turns[..] {
            [turn] => said(&turn.content),
            turns => {
                let turn = |turn: &Turn| format!("{}: {}", turn.role, said(&turn.content));
                turns.iter().map(turn).collect::<Vec<_>>().join("\n\n")
            }
        },
    }
}

fn said(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let text = |part: &FieldValue| match part {
                FieldValue::Struct(fields) => {
                    let mut texts = fields.iter().filter(|(name, _)| name == "text");
                    texts.next().and_then(|(_, text)| match text {
                        FieldValue::Text(text) => Some(text.clone()),
                        _ => None,
                    })
                }
                _ => None,
            };
            parts.iter().filter_map(text).collect()
        }
        Content::Absent => String::new(),
    }
}

/// The pairs of the lowest scores, lowest first.
#[derive(Default)]
struct Worst(Vec<(f64, Shown)>);

impl Worst {
    fn add(&mut self, score: f64, pair: impl FnOnce() -> Shown) {
        let at = self.0.partition_point(|(other, _)| *other <= score);
        if at < SHOWN {
            self.0.insert(at, (score, pair()));
            self.0.truncate(SHOWN);
        }
    }

    fn into_pairs(self) -> Vec<Shown> {
        self.0.into_iter().map(|(_, pair)| pair).collect()
    }
}

/// Fields of structs, by row; none where they are NULL.
struct Row<'a>(&'a StructArray);

impl<'a> Row<'a> {
    fn field(&self, name: &str, row: usize) -> Option<&'a dyn Array> {
        let column = self.0.column_by_name(name)?;
        (self.0.is_valid(row) && column.is_valid(row)).then_some(&**column)
    }

    fn number(&self, name: &str, row: usize) -> Option<f64> {
        let column = self.field(name, row)?;
        Some(column.as_primitive_opt::<Float64Type>()?.value(row))
    }

    fn whole(&self, name: &str, row: usize) -> Option<i32> {
        let column = self.field(name, row)?;
        Some(column.as_primitive_opt::<Int32Type>()?.value(row))
    }

    fn truth(&self, name: &str, row: usize) -> Option<bool> {
        Some(self.field(name, row)?.as_boolean_opt()?.value(row))
    }

    fn text(&self, name: &str, row: usize) -> Option<String> {
        let column = self.field(name, row)?.as_string_opt::<i32>()?;
        Some(column.value(row).to_owned())
    }

    fn tokens(&self, name: &str, row: usize) -> Vec<(String, f64)> {
        let Some(list) = self
            .field(name, row)
            .and_then(|list| list.as_list_opt::<i32>())
        else {
            return Vec::new();
        };
        let tokens = list.value(row);
        let tokens = Row(tokens.as_struct());
        let token = |at| Some((tokens.text("token", at)?, tokens.number("change", at)?));
        (0..tokens.0.len()).filter_map(token).collect()
    }
}
