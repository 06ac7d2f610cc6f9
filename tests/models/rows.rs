//! The hand-written rows of `tests/goldens/rows.json`, from column to text, token ids and
//! scores, against what transformers makes of them (`tests/goldens/make_rows.py`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::support::{assert_scores, field, golden_lines, model, root, session_with_pairs};
use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{Field, Int32Type};
use datafusion::prelude::SessionContext;
use datafusion_ches::ches_udfs::{
    Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError, Scorer,
    ScorerError,
};
use datafusion_ches::{Ches, EncodedPair, ModelScorer};
use serde_json::{Value, json};

/// A model's scorer that keeps what the model was shown.
#[derive(Debug, Default)]
struct Watching {
    scorer: ModelScorer,
    shown: Mutex<Vec<Result<EncodedPair, RowError>>>,
}

#[async_trait]
impl Scorer for Watching {
    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        let shown = self
            .scorer
            .encode_pairs(&job.settings, pairs.clone())
            .await?;
        self.shown.lock().unwrap().extend(shown);
        self.scorer.score_pairs(job, pairs).await
    }

    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        self.scorer.score_responses(job, responses).await
    }
}

fn strings(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

fn messages(turns: &[&Value]) -> StructArray {
    let names = match turns.first().map(|turn| turn.get("from").is_some()) {
        Some(true) => ["from", "value"],
        _ => ["role", "content"],
    };
    let column = |name: &str| strings(turns.iter().map(|turn| turn[name].as_str()).collect());
    let [role, content] = names.map(|name| {
        let column = column(name);
        (
            Arc::new(Field::new(name, column.data_type().clone(), true)),
            column,
        )
    });
    StructArray::from(vec![role, content])
}

/// A column of one row.
fn column(value: &Value) -> ArrayRef {
    match value {
        Value::String(text) => strings(vec![Some(text)]),
        Value::Null => strings(vec![None]),
        Value::Array(turns) => {
            let messages = messages(&turns.iter().collect::<Vec<_>>());
            let item = Field::new_list_field(messages.data_type().clone(), true);
            Arc::new(ListArray::new(
                Arc::new(item),
                OffsetBuffer::from_lengths([turns.len()]),
                Arc::new(messages),
                None,
            ))
        }
        message => Arc::new(messages(&[message])),
    }
}

struct Outcome {
    shown: Option<Result<EncodedPair, RowError>>,
    scores: StructArray,
}

async fn score(row: &Value, scorer: &Arc<Watching>, on_error: &str) -> Result<Outcome, String> {
    let ctx = SessionContext::new();
    let mut ches = Ches::new()
        .with_scorer(Arc::clone(scorer) as Arc<dyn Scorer>)
        .with_model(model())
        .with_setting("on_error", on_error)
        .unwrap();
    if let Some(settings) = row["settings"].as_object() {
        for (key, value) in settings {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            ches = ches.with_setting(key, &value).unwrap();
        }
    }
    ches.register(&ctx).unwrap();
    let names: Vec<_> = ["prompt", "chosen", "rejected"]
        .into_iter()
        .filter(|name| row.get(name).is_some())
        .collect();
    let columns = names.iter().map(|name| (*name, column(&row[*name])));
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true)));
    ctx.register_batch("pairs", batch.unwrap()).unwrap();
    scorer.shown.lock().unwrap().clear();
    let sql = format!("SELECT preference_scores({}) FROM pairs", names.join(", "));
    let frame = ctx.sql(&sql).await.map_err(|error| error.to_string())?;
    let batches = frame.collect().await.map_err(|error| error.to_string())?;
    Ok(Outcome {
        shown: scorer.shown.lock().unwrap().pop(),
        scores: batches[0].column(0).as_struct().clone(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_written_rows() {
    let text = std::fs::read_to_string(root().join("tests/goldens/rows.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let goldens: HashMap<String, Value> = golden_lines("rows.golden.jsonl")
        .into_iter()
        .map(|golden| (golden["name"].as_str().unwrap().to_owned(), golden))
        .collect();
    let scorer = Arc::new(Watching::default());
    assert!(rows.len() >= 25);
    for row in &rows {
        let name = row["name"].as_str().unwrap();
        let outcome = score(row, &scorer, "null").await.unwrap();
        let error = field(&outcome.scores, 0, "error");
        if row["null"] == true {
            let error = error.as_str().unwrap_or_default();
            assert!(error.ends_with(" NULL"), "{name}: {error}");
            assert_eq!(field(&outcome.scores, 0, "ches"), Value::Null, "{name}");
            continue;
        }
        assert!(outcome.scores.is_valid(0), "{name}");
        if let Some(expected) = row["error"].as_str() {
            let error = error.as_str().unwrap_or_default();
            assert!(error.contains(expected), "{name}: {error}");
            assert_eq!(field(&outcome.scores, 0, "ches"), Value::Null, "{name}");
            let failed = score(row, &scorer, "fail").await.err().unwrap_or_default();
            assert!(failed.contains(expected), "{name}: {failed}");
            assert!(
                failed.contains("row 1 of this batch of 1"),
                "{name}: {failed}"
            );
            continue;
        }

        let golden = &goldens[name];
        let shown = outcome.shown.unwrap().unwrap();
        assert_eq!(golden["prompt_text"], shown.prompt_text, "{name}");
        let prompt_ids = golden["prompt_ids"].as_array().unwrap();
        assert_eq!(prompt_ids.len(), shown.prompt_tokens, "{name}");
        for (at, side) in ["chosen", "rejected"].into_iter().enumerate() {
            assert_eq!(golden[format!("{side}_text")], shown.texts[at], "{name}");
            assert_eq!(
                golden[format!("{side}_ids")],
                json!(shown.ids[at]),
                "{name}"
            );
        }
        assert_eq!(golden["end_id"], json!(shown.end_token), "{name}");

        match row["no_score"].as_str() {
            Some(expected) => {
                let error = error.as_str().unwrap_or_default();
                assert!(error.contains(expected), "{name}: {error}");
                for score in ["ches", "chosen_logprob", "normalized_edit_distance"] {
                    assert_eq!(field(&outcome.scores, 0, score), Value::Null, "{name}");
                }
                // Not an error: the query goes on whatever `on_error` says.
                score(row, &scorer, "fail").await.unwrap();
            }
            None => {
                assert_eq!(error, Value::Null, "{name}");
                assert_scores(name, &golden["scores"], |of| field(&outcome.scores, 0, of));
            }
        }
    }
}

/// Prompts that end in any turn, and messages with further fields, as TRL's `DPOTrainer` tokenizes them
/// (`tests/goldens/make_trl.py`).
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_tokenized_as_by_trl() {
    let model = root().join("tests/goldens/families/llama/model");
    let table = root().join("tests/goldens/trl.parquet");
    let rows = golden_lines("trl.jsonl");
    assert!(rows.len() >= 10);
    for row in rows {
        let mut ches = Ches::new().with_model(model.to_str().unwrap());
        if let Some(template) = row["chat_template"].as_str() {
            ches = ches.with_chat_template(template);
        }
        let ctx = session_with_pairs(&ches, table.to_str().unwrap()).await;
        let name = row["name"].as_str().unwrap();
        assert_tokens(&ctx, &format!("name = '{name}'"), &row).await;
    }
}

/// The same beside columns of tools and of names for the template, of contents in parts.
#[tokio::test(flavor = "multi_thread")]
async fn rows_beside_columns_are_tokenized_as_by_trl() {
    let model = root().join("tests/goldens/families/llama/model");
    let table = root().join("tests/goldens/beside.parquet");
    let rows = golden_lines("beside.jsonl");
    assert_eq!(rows.len(), 12);
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap();
        let ches = Ches::new()
            .with_model(model.to_str().unwrap())
            .with_chat_template(text("chat_template"))
            .with_setting("tools_column", text("tools"))
            .and_then(|ches| ches.with_setting("chat_template_kwargs_column", text("kwargs")))
            .unwrap();
        let ctx = session_with_pairs(&ches, table.to_str().unwrap()).await;
        assert_tokens(&ctx, &format!("id = {}", row["id"]), &row).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_prints_parts_is_a_row_error() {
    let model = root().join("tests/goldens/families/llama/model");
    let table = root().join("tests/goldens/beside.parquet");
    for print in [
        "m.content",
        "m.content | tojson",
        "m['content'] | string | trim",
        "m.content[:1]",
    ] {
        let template = format!("{{% for m in messages %}}{{{{ {print} }}}}{{% endfor %}}");
        let ches = Ches::new()
            .with_model(model.to_str().unwrap())
            .with_chat_template(template);
        let ctx = session_with_pairs(&ches, table.to_str().unwrap()).await;
        let sql = "SELECT preference_tokens(prompt, chosen, rejected) FROM pairs";
        let failed = ctx.sql(sql).await.unwrap().collect().await;
        let error = failed.unwrap_err().to_string();
        assert!(
            error.contains("prints the list of a message's parts"),
            "{print}: {error}"
        );
    }
}

/// The tokens of the row of a condition are those of a golden.
async fn assert_tokens(ctx: &SessionContext, condition: &str, row: &Value) {
    let sql =
        format!("SELECT preference_tokens(prompt, chosen, rejected) FROM pairs WHERE {condition}");
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    let shown = batches[0].column(0).as_struct();
    assert_eq!(field(shown, 0, "error"), Value::Null, "{condition}");
    let ids = |name: &str| -> Vec<u64> {
        let ids = shown.column_by_name(name).unwrap().as_list::<i32>();
        let ids = ids.value(0);
        let ids = ids.as_primitive::<Int32Type>().values().iter();
        ids.map(|id| *id as u64).collect()
    };
    let golden = |name: &str| -> Vec<u64> {
        let ids = row[name].as_array().unwrap().iter();
        ids.map(|id| id.as_u64().unwrap()).collect()
    };
    let end = field(shown, 0, "end_token_id").as_u64().unwrap();
    let prompt = golden("prompt_ids");
    assert_eq!(ids("prompt_ids"), prompt, "{condition}");
    for side in ["chosen_ids", "rejected_ids"] {
        // A template may write more after the end token.
        let mut expected = [prompt.clone(), golden(side)].concat();
        let last = expected.iter().rposition(|id| *id == end).unwrap();
        expected.truncate(last);
        assert_eq!(ids(side), expected, "{condition}: {side}");
    }
}
