//! What `COPY … TO` writes: whole, or not at all.
//!
//! A directory's files come first, under names that begin with the run's; then a manifest beside it, which
//! is the commit; then the files of the run before go. Leftovers of runs that were killed are removed by
//! the next run. A single file appears by the end of its multipart upload, or by a rename.

mod claim;
mod manifest;
pub(super) mod names;
mod run_names;
mod run_store;
mod target;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_ches::ChesSettings;
use datafusion_ches::ches_udfs::Scorer;
use object_store::Error;
use tokio::task::JoinHandle;
use url::Url;

use super::scores::Scores;
use claim::Claim;
use manifest::{Committed, File, Manifest};
use run_names::{is_of_a_run, new_run, suffix_of};
use run_store::{Naming, RunStore};
use target::{MANIFEST, Target, refused};

/// The scheme of the stores that runs write through.
const SCHEME: &str = "ches-output";

/// How long the commit may take: less than until another run may take over.
const COMMIT: Duration = Duration::from_secs(40);

/// Runs that were dropped and are being cleared away.
#[derive(Debug, Clone, Default)]
pub(super) struct Cleanup(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Cleanup {
    fn add(&self, task: JoinHandle<()>) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Waits for all of them, so long at most; tells whether they are done.
    pub(super) async fn wait(&self, within: Duration) -> bool {
        let tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        tokio::time::timeout(within, all).await.is_ok()
    }
}

/// Whether a plan writes files: a COPY, or the analysis of one.
pub(super) fn is_copy(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Copy(_) => true,
        LogicalPlan::Analyze(analyze) => matches!(*analyze.input, LogicalPlan::Copy(_)),
        _ => false,
    }
}

/// Whether an option of a COPY is one of the account that writes.
pub(super) fn is_of_an_account(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    let accounts = ["aws.", "gcp.", "azure.", "oss.", "cos."];
    accounts.iter().any(|account| option.starts_with(account))
}

/// Runs a plan that [`is_copy`]; the frame is what it answers.
///
/// # Errors
/// When the place cannot be written or is somebody else's, or the query fails. Then nothing of it is
/// there.
pub(super) async fn copy(
    ctx: &SessionContext,
    plan: LogicalPlan,
    origin: Origin<'_>,
    clearing: &Cleanup,
) -> Result<DataFrame> {
    let mut target = None;
    plan.apply(|node| {
        if let LogicalPlan::Copy(copy) = node {
            target = Some(Target::of(ctx, copy)?);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let Some(target) = target else {
        return ctx.execute_logical_plan(plan).await;
    };
    let shown = target.url.to_string();
    let output = Output::begin(ctx, target, clearing).await;
    let mut output = output.map_err(|reason| refused(&shown, &reason))?;
    match output.write(ctx, plan, origin).await {
        Ok(answer) => ctx.read_batches(answer),
        Err(error) => {
            let failure = output.failure();
            output.discard().await;
            // DataFusion tells that it could not write, and not why.
            Err(failure.map_or(error, |reason| refused(&shown, &reason)))
        }
    }
}

/// Where scores that are written come from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// From this scorer, if the plan says so.
    Plan(&'a dyn Scorer),
    /// From other processes, for which this scorer speaks; the plan says nothing.
    #[cfg(feature = "cluster")]
    Elsewhere(&'a dyn Scorer),
}

/// A run that writes. Dropping it clears away what it wrote.
#[derive(Debug)]
struct Output {
    /// None when it is over.
    open: Option<Open>,
    clearing: Cleanup,
    runtime: Arc<RuntimeEnv>,
}

impl Output {
    /// Takes the run, whose store is not used any more.
    fn close(&mut self) -> Option<Open> {
        let open = self.open.take()?;
        open.store.end();
        if let Ok(url) = open.url() {
            let _ = self.runtime.deregister_object_store(&url);
        }
        Some(open)
    }
}

#[derive(Debug)]
struct Open {
    run: String,
    began: String,
    target: Target,
    claim: Option<Claim>,
    store: Arc<RunStore>,
    before: Option<Committed>,
}

impl Drop for Output {
    fn drop(&mut self) {
        let Some(open) = self.close() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.clearing.add(runtime.spawn(open.clear()));
        }
    }
}

impl Output {
    /// Claims a place, and removes what killed runs left there.
    async fn begin(
        ctx: &SessionContext,
        target: Target,
        clearing: &Cleanup,
    ) -> Result<Self, String> {
        let run = new_run();
        let claim = target.claim(&run).await?;
        let naming = match &target.local {
            _ if target.is_directory => Naming::Prefixed(format!("{run}-")),
            Some(_) => Naming::Renamed(suffix_of(&run)),
            None => Naming::Held,
        };
        let store = Arc::new(RunStore::new(Arc::clone(&target.store), naming));
        // From here on the claim is given back whatever happens.
        let mut output = Self {
            open: Some(Open {
                began: now(),
                store: Arc::clone(&store),
                claim,
                target,
                before: None,
                run,
            }),
            clearing: clearing.clone(),
            runtime: ctx.runtime_env(),
        };
        let Some(open) = &mut output.open else {
            return Err("over".into());
        };
        let prepared = open.prepare().await;
        if let Err(reason) = prepared {
            output.discard().await;
            return Err(reason);
        }
        let url = open.url().map_err(|error| error.to_string())?;
        tracing::info!("{}: {} begins", open.target.url, open.run);
        ctx.register_object_store(&url, store);
        Ok(output)
    }

    /// Runs the plan into the run's store, and commits.
    async fn write(
        &mut self,
        ctx: &SessionContext,
        plan: LogicalPlan,
        origin: Origin<'_>,
    ) -> Result<Vec<RecordBatch>> {
        let Some(open) = &self.open else {
            return Err(DataFusionError::Internal("a run that is over".into()));
        };
        let url = open.url()?;
        let mut of_no_rows = None;
        let plan = plan.transform_down(|node| {
            Ok(match node {
                LogicalPlan::Copy(mut copy) => {
                    // The store is open, and plans are logged.
                    copy.options.retain(|option, _| !is_of_an_account(option));
                    copy.output_url = open.output_url(&url);
                    of_no_rows = open
                        .target
                        .is_directory
                        .then(|| of_no_rows_of(&copy))
                        .flatten();
                    Transformed::yes(LogicalPlan::Copy(copy))
                }
                other => Transformed::no(other),
            })
        })?;
        let frame = ctx.execute_logical_plan(plan.data).await?;
        let settings = ctx.copied_config();
        let settings = settings.options().extensions.get::<ChesSettings>().cloned();
        let plan = frame.create_physical_plan().await?;
        let answer = collect(Arc::clone(&plan), ctx.task_ctx()).await?;
        if let Some(of_no_rows) = of_no_rows.filter(|_| open.store.files().is_empty()) {
            let frame = ctx.execute_logical_plan(of_no_rows).await?;
            frame.collect().await?;
        }
        let manifest = open.manifest(&plan, &answer, &settings.unwrap_or_default(), origin);
        let shown = open.target.url.to_string();
        let Some(open) = self.close() else {
            return Err(DataFusionError::Internal("a run that is over".into()));
        };
        // In a task of its own, which goes on to its end if nobody waits for this run any more.
        let (done, is_done) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let _ = done.send(open.end(manifest).await);
        });
        self.clearing.add(task);
        let ended = is_done
            .await
            .unwrap_or_else(|_| Err("the commit panicked".into()));
        ended.map_err(|reason| refused(&shown, &reason))?;
        // What the session knows of files was true before.
        let listed = self.runtime.cache_manager.get_list_files_cache();
        listed.inspect(|listed| listed.clear());
        Ok(answer)
    }

    /// Why it could not write, if that was the reason.
    fn failure(&self) -> Option<String> {
        self.open.as_ref()?.store.failure()
    }

    /// Ends a run that failed.
    async fn discard(mut self) {
        if let Some(open) = self.close() {
            open.clear().await;
        }
    }
}

impl Open {
    /// The store that the run writes through.
    fn url(&self) -> Result<Url> {
        let url = format!("{SCHEME}://{}", self.run);
        Url::parse(&url).map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// Where the plan writes: the same place, through that store.
    fn output_url(&self, url: &Url) -> String {
        let mut url = url.clone();
        url.set_path(self.target.url.path());
        let is_marked = url.path().ends_with('/');
        if self.target.is_directory && !is_marked {
            url.set_path(&format!("{}/", self.target.url.path()));
        }
        url.to_string()
    }

    /// Looks at what is there already, and removes what runs left that were killed here.
    async fn prepare(&mut self) -> Result<(), String> {
        let mut killed = match &self.claim {
            Some(claim) => claim.killed().await,
            None => Vec::new(),
        };
        if !self.target.is_directory {
            self.target.try_upload().await?;
            if killed.is_empty() {
                return Ok(());
            }
            let removed = self.target.remove_unfinished(&killed);
            return removed.map_err(|error| error.to_string());
        }
        let place = self.target.beside(MANIFEST)?;
        let before = manifest::read(&*self.target.store, &place).await;
        self.before = before.map_err(|error| error.to_string())?;
        // Killed after its commit, a run leaves the files of the one before.
        let replaced = self
            .before
            .iter()
            .flat_map(|before| &before.manifest.replaced);
        killed.extend(replaced.cloned());
        let committed: BTreeSet<&str> = match &self.before {
            None => BTreeSet::new(),
            Some(before) => before
                .manifest
                .files
                .iter()
                .map(|of| &of.path[..])
                .collect(),
        };
        let mut files = self.target.files().await?;
        files.retain(|file| !committed.contains(&file[..]));
        let is_left = |file: &&String| {
            let name = file.rsplit('/').next().unwrap_or(file);
            is_of_a_run(name) && killed.iter().any(|run| name.starts_with(run))
        };
        let (left, foreign): (Vec<_>, Vec<_>) = files.iter().partition(is_left);
        if let Some(foreign) = foreign.first() {
            return Err(format!(
                "holds '{foreign}', which no run of ches wrote that is known here; accepted: a new or \
                 empty directory, or one that COPY wrote and that has its manifest beside it"
            ));
        }
        for file in &left {
            self.target.remove(file).await?;
        }
        if !left.is_empty() {
            let count = left.len();
            tracing::info!(
                "{}: removed {count} files of runs that were killed",
                self.target.url
            );
        }
        Ok(())
    }

    /// What is to be committed, but for the files and the time.
    fn manifest(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        answer: &[RecordBatch],
        settings: &ChesSettings,
        origin: Origin<'_>,
    ) -> Manifest {
        let mut manifest = Manifest::begun(self.run.clone(), self.began.clone());
        if !self.target.is_directory {
            return manifest;
        }
        manifest.rows = rows_written(plan, answer);
        manifest.scores = Scores::of(plan);
        let provenance = match origin {
            Origin::Plan(scorer) if manifest.scores.is_some() => scorer.provenance(settings),
            Origin::Plan(_) => Vec::new(),
            #[cfg(feature = "cluster")]
            Origin::Elsewhere(scorer) => scorer.provenance(settings),
        };
        manifest.provenance = provenance.into_iter().collect();
        let entries = datafusion::config::ExtensionOptions::entries(settings);
        manifest.settings = entries.into_iter().map(|of| (of.key, of.value)).collect();
        manifest
    }

    /// Commits, and removes what is not needed any more: the files of the run before, or those of this
    /// one if it could not be committed.
    async fn end(self, manifest: Manifest) -> Result<(), String> {
        let committed = tokio::time::timeout(COMMIT, self.commit(manifest)).await;
        let committed = committed.unwrap_or_else(|_| Err("the commit took too long".into()));
        if let Err(reason) = committed {
            // The answer may have been lost, not the manifest.
            let there = tokio::time::timeout(COMMIT, self.is_committed()).await;
            match there.unwrap_or_else(|_| Err("whether it was committed is not known".into())) {
                Ok(true) => {}
                Ok(false) => {
                    self.clear().await;
                    return Err(reason);
                }
                // Then nothing of it is removed.
                Err(unknown) => return Err(format!("{reason}; {unknown}")),
            }
        }
        tracing::info!("{}: {} is committed", self.target.url, self.run);
        if let Some(before) = &self.before {
            for file in &before.manifest.files {
                if let Err(reason) = self.target.remove(&file.path).await {
                    tracing::warn!("{}: '{}' is left: {reason}", self.target.url, file.path);
                }
            }
        }
        if let Some(claim) = self.claim {
            claim.release().await;
        }
        Ok(())
    }

    /// Makes what was written the place's content.
    async fn commit(&self, mut manifest: Manifest) -> Result<(), String> {
        if let Some(claim) = &self.claim {
            claim.check().await?;
        }
        if !self.target.is_directory {
            let published = self.store.publish().await;
            return published.map_err(|error| error.to_string());
        }
        let files = self.store.files().into_iter().map(|(path, bytes)| {
            let within = path.as_ref().strip_prefix(self.target.path.as_ref());
            let within = within.unwrap_or(path.as_ref()).trim_start_matches('/');
            File {
                path: within.to_owned(),
                bytes,
            }
        });
        manifest.files = files.collect();
        let replaced = self.before.iter().map(|before| before.manifest.run.clone());
        manifest.replaced = replaced.collect();
        manifest.finished = now();
        let place = self.target.beside(MANIFEST)?;
        let is_locked = self.claim.as_ref().is_some_and(Claim::is_lock);
        let store = &*self.target.store;
        let committed = manifest::commit(store, &place, &manifest, self.before.as_ref(), is_locked);
        committed.await.map_err(|error| match error {
            Error::AlreadyExists { .. } | Error::Precondition { .. } => {
                "another run has committed meanwhile".to_owned()
            }
            error => error.to_string(),
        })
    }

    /// Whether the manifest that is there is this run's.
    async fn is_committed(&self) -> Result<bool, String> {
        if !self.target.is_directory {
            return Ok(false);
        }
        let place = self.target.beside(MANIFEST)?;
        let there = manifest::read(&*self.target.store, &place).await;
        let there = there.map_err(|error| error.to_string())?;
        Ok(there.is_some_and(|there| there.manifest.run == self.run))
    }

    /// Removes what the run wrote, and gives the claim back.
    async fn clear(self) {
        self.store.abort().await;
        if self.target.is_directory {
            let files = self.target.files().await.unwrap_or_default();
            let own = |file: &&String| {
                let name = file.rsplit('/').next().unwrap_or(file);
                name.starts_with(&self.run)
            };
            for file in files.iter().filter(own) {
                if let Err(reason) = self.target.remove(file).await {
                    tracing::warn!("{}: {reason}; the next run removes it", self.target.url);
                }
            }
        }
        if !self.target.is_directory
            && let Err(error) = self.target.remove_unfinished(&[self.run])
        {
            tracing::warn!("{}: {error}; the next run removes it", self.target.url);
        }
        if let Some(claim) = self.claim {
            claim.release().await;
        }
        self.target.remove_empty();
    }
}

/// Writes a file without rows into the directory of a COPY, since no file would say which columns there
/// are none of. None where the columns are partly names of directories.
fn of_no_rows_of(copy: &CopyTo) -> Option<LogicalPlan> {
    if !copy.partition_by.is_empty() {
        return None;
    }
    let mut options = copy.options.clone();
    options.insert("single_file_output".into(), "true".into());
    let name = format!("0.{}", copy.file_type.get_ext());
    let input = LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::clone(copy.input.schema()),
    });
    Some(LogicalPlan::Copy(CopyTo::new(
        Arc::new(input),
        format!("{}{name}", copy.output_url),
        Vec::new(),
        Arc::clone(&copy.file_type),
        options,
    )))
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Rows that a COPY wrote: as it says itself, or by what its sink was given.
fn rows_written(plan: &Arc<dyn ExecutionPlan>, answer: &[RecordBatch]) -> u64 {
    let counts = answer.iter().map(|batch| {
        let counts = batch.columns().first()?.as_primitive_opt::<UInt64Type>()?;
        Some(counts.iter().flatten().sum::<u64>())
    });
    if let Some(counts) = counts.collect::<Option<Vec<u64>>>() {
        return counts.iter().sum();
    }
    let mut rows = 0;
    let _ = plan.apply(|node| {
        if node.name() == "DataSinkExec" {
            let inputs = node.children().into_iter();
            let given = inputs.filter_map(|input| input.metrics()?.output_rows());
            rows += given.sum::<usize>() as u64;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    rows
}
