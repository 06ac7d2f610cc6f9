//! The plugin beside a host's own catalog: its schemas list their own tables, a table's provider reads
//! them, and what the provider can skip is never scored.
//!
//! `cargo run --example own_catalog -- <model.gguf>`

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion_ches::Ches;

/// What the host stores: for each day, its pairs.
const DAYS: [(&str, [[&str; 3]; 2]); 2] = [
    (
        "monday",
        [
            ["Is the sky blue?", "Yes.", "No."],
            ["Is water dry?", "No.", "Never."],
        ],
    ),
    (
        "tuesday",
        [
            ["Two and two?", "Four.", "Five."],
            ["The capital of France?", "Paris.", "Rome."],
        ],
    ),
];

#[derive(Debug)]
struct Lake;

impl CatalogProvider for Lake {
    fn schema_names(&self) -> Vec<String> {
        vec!["preferences".into()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == "preferences").then(|| Arc::new(Preferences) as _)
    }
}

#[derive(Debug)]
struct Preferences;

#[async_trait]
impl SchemaProvider for Preferences {
    fn table_names(&self) -> Vec<String> {
        vec!["pairs".into()]
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok((name == "pairs").then(|| Arc::new(Pairs::new()) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        name == "pairs"
    }
}

#[derive(Debug)]
struct Pairs {
    schema: SchemaRef,
}

impl Pairs {
    fn new() -> Self {
        let column = |name: &str| Field::new(name, DataType::Utf8, false);
        let columns = ["day", "prompt", "chosen", "rejected"].map(column);
        Self {
            schema: Arc::new(Schema::new(columns.to_vec())),
        }
    }

    fn day(&self, day: &str, pairs: &[[&str; 3]]) -> Result<RecordBatch> {
        let texts =
            |at: usize| Arc::new(StringArray::from_iter_values(pairs.iter().map(|p| p[at])));
        let days = StringArray::from_iter_values(pairs.iter().map(|_| day));
        let columns = vec![
            Arc::new(days) as _,
            texts(0) as _,
            texts(1) as _,
            texts(2) as _,
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[async_trait]
impl TableProvider for Pairs {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// A day is read whole, or not at all.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let is_asked = |day: &str| {
            let is_another = |filter: &Expr| match filter {
                Expr::BinaryExpr(equal) if equal.op == Operator::Eq => {
                    let is_day =
                        matches!(&*equal.left, Expr::Column(column) if column.name == "day");
                    is_day && *equal.right != lit(day)
                }
                _ => false,
            };
            !filters.iter().any(is_another)
        };
        let days = DAYS.iter().filter(|(day, _)| is_asked(day));
        let days: Result<Vec<_>> = days.map(|(day, pairs)| self.day(day, pairs)).collect();
        let days = days?;
        println!("{} of {} days are read", days.len(), DAYS.len());
        let read = MemTable::try_new(self.schema(), vec![days])?;
        read.scan(session, projection, &[], limit).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let model = std::env::args().nth(1).expect("the path of a .gguf file");
    let ctx = SessionContext::new();
    ctx.register_catalog("lake", Arc::new(Lake));
    Ches::new().with_model(model).register(&ctx)?;
    ctx.sql(
        "SELECT prompt, ches_normalized(prompt, chosen, rejected) AS score
         FROM lake.preferences.pairs WHERE day = 'monday' ORDER BY score DESC NULLS LAST",
    )
    .await?
    .show()
    .await
}
