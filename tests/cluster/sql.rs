//! The SQL logic tests of `udfs/tests/slt` by a third engine: Ballista, with a scheduler and two
//! executors in this process.
//!
//! Queries run there. What makes or changes tables runs in a session of this process, whose tables the
//! cluster reads as Parquet files: those of a client's memory are nothing to an executor.

use std::sync::Arc;

use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use tempfile::TempDir;

use crate::ballista::Cluster;
use crate::fake_scorer::{self, FakeScorer};
use crate::slt::{self, Engine, Exceptions, run_file_by};

/// What a cluster does otherwise.
const EXCEPTIONS: &Exceptions = &[
    (
        "EXPLAIN SELECT",
        "the plan is a cluster's, and AsyncFuncExec stands for ScoreExec",
    ),
    (
        "arrow_metadata",
        "a client without a model has no provenance",
    ),
    (
        "value AS DOUBLE) FROM generate_series",
        "Ballista cannot send a table function's rows",
    ),
    ("7 * value FROM generate_series", "as above"),
    (
        "information_schema.routines WHERE",
        "a client finds the hidden functions by name",
    ),
    ("DESCRIBE SELECT", "Ballista cannot send DESCRIBE"),
    (
        "score AS c FROM scored WHERE lang = 'en' QUALIFY",
        "a query without scores: Ballista loses the order of a constant PARTITION BY",
    ),
];

/// A client, and the session that its tables are made in.
struct Client {
    local: SessionContext,
    remote: SessionContext,
    folder: TempDir,
    exported: usize,
}

impl Client {
    async fn of(cluster: &Cluster, scorer: &FakeScorer) -> Self {
        scorer.counts.reset();
        Self {
            local: fake_scorer::session_by(scorer.clone()),
            remote: cluster.session().await,
            folder: tempfile::tempdir().unwrap(),
            exported: 0,
        }
    }

    /// Puts the local session's tables where executors read them.
    async fn export(&mut self) -> Result<()> {
        let catalog = self.local.catalog("datafusion").unwrap();
        let schema = catalog.schema("public").unwrap();
        for name in schema.table_names() {
            let table = schema.table(&name).await?.unwrap();
            if table.table_type() != TableType::Base {
                continue;
            }
            self.exported += 1;
            let place = self
                .folder
                .path()
                .join(format!("{}.parquet", self.exported));
            let place = place.to_str().unwrap();
            let options = DataFrameWriteOptions::new().with_single_file_output(true);
            let rows = self.local.table(&name).await?;
            rows.write_parquet(place, options, None).await?;
            self.remote.deregister_table(&name)?;
            let options = ParquetReadOptions::default();
            self.remote.register_parquet(&name, place, options).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Engine for Client {
    async fn run(&mut self, sql: &str) -> Result<slt::Answer> {
        let is = |word: &str| sql.trim_start().starts_with(word);
        if ["SET", "CREATE VIEW", "PREPARE"].into_iter().any(is) {
            self.local.sql(sql).await?.collect().await?;
            return slt::answer(&self.remote, sql).await;
        }
        if ["CREATE", "INSERT", "UPDATE", "DELETE", "COPY", "DROP"]
            .into_iter()
            .any(is)
        {
            let answer = slt::answer(&self.local, sql).await;
            self.export().await?;
            return answer;
        }
        slt::answer(&self.remote, sql).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slt_files_by_ballista() {
    let scorer = FakeScorer::default();
    let counters = fake_scorer::counters(&scorer.counts);
    let cluster = Arc::new(Cluster::start(counters.into()).await);
    for _ in 0..2 {
        cluster.add_executor(Arc::new(scorer.clone()), 2).await;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/udfs/tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 10);
    let mut met = Vec::new();
    for file in files {
        let client = || {
            let (cluster, scorer) = (Arc::clone(&cluster), scorer.clone());
            async move { Client::of(&cluster, &scorer).await }
        };
        met.extend(run_file_by(&file, client, EXCEPTIONS).await);
    }
    for (part, reason) in EXCEPTIONS {
        assert!(
            met.contains(part),
            "no statement has {part:?} any more ({reason})"
        );
    }
}
