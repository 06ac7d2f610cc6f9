//! What `COPY … TO` writes: whole, or not at all.
//!
//! A directory's files come first, under names that begin with the run's; then a manifest beside it, which
//! is the commit; then the files of the run before go. Leftovers of runs that were killed are removed by
//! the next run. A single file appears by the end of its multipart upload, or by a rename.

mod claim;
mod manifest;
mod run_store;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_ches::ChesSettings;
use datafusion_ches::ches_udfs::Scorer;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use tokio::task::JoinHandle;
use url::Url;

use super::scores::Scores;
use claim::Claim;
use manifest::{Committed, File, Manifest};
use run_store::RunStore;

/// Begins the name of every run.
const RUN: &str = "ches-";

/// Beside a directory, its manifest.
const MANIFEST: &str = ".ches-manifest.json";

/// Beside a directory in an object store, the claim of the run that writes it.
const CLAIM: &str = ".ches-run.json";

/// Beside a local directory or file, the same.
const LOCK: &str = ".ches-run.lock";

/// The scheme of the stores that runs write through.
const SCHEME: &str = "ches-output";

/// How long the commit may take: less than until another run may take over.
const COMMIT: Duration = Duration::from_secs(40);

/// Runs that were dropped and are being cleared away.
#[derive(Debug, Clone, Default)]
pub struct Clearing(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Clearing {
    /// Waits for all of them, so long at most; tells whether they are done.
    pub async fn wait(&self, within: Duration) -> bool {
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
pub fn is_copy(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Copy(_) => true,
        LogicalPlan::Analyze(analyze) => matches!(*analyze.input, LogicalPlan::Copy(_)),
        _ => false,
    }
}

/// Whether an option of a COPY is one of the account that writes.
pub fn is_of_an_account(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    let accounts = ["aws.", "gcp.", "azure.", "oss.", "cos."];
    accounts.iter().any(|account| option.starts_with(account))
}

/// Runs a plan that [`is_copy`]; the frame is what it answers.
///
/// # Errors
/// When the place cannot be written or is somebody else's, or the query fails. Then nothing of it is
/// there.
pub async fn copy(
    ctx: &SessionContext,
    plan: LogicalPlan,
    scorer: &dyn Scorer,
    clearing: &Clearing,
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
    match output.write(ctx, plan, scorer).await {
        Ok(answer) => {
            output.finish().await;
            ctx.read_batches(answer)
        }
        Err(error) => {
            output.discard().await;
            Err(error)
        }
    }
}

fn refused(place: &str, reason: &str) -> DataFusionError {
    DataFusionError::Execution(format!("{place}: {reason}"))
}

/// Where a COPY writes.
#[derive(Debug)]
struct Target {
    url: Url,
    store: Arc<dyn ObjectStore>,
    /// Within the store.
    path: Path,
    is_directory: bool,
    /// On this machine.
    local: Option<PathBuf>,
}

impl Target {
    fn of(ctx: &SessionContext, copy: &CopyTo) -> Result<Self> {
        let url = ListingTableUrl::parse(&copy.output_url)?;
        let is_directory = match copy.options.get("single_file_output").map(|of| of.trim()) {
            _ if !copy.partition_by.is_empty() => true,
            Some("true") => false,
            Some("false") => true,
            _ => url.is_collection() || url.file_extension().is_none(),
        };
        let is_file_url = url.scheme() == "file";
        let local = is_file_url
            .then(|| url.get_url().to_file_path().ok())
            .flatten();
        Ok(Self {
            store: ctx.runtime_env().object_store(&url)?,
            path: url.prefix().clone(),
            url: url.get_url().clone(),
            is_directory,
            local,
        })
    }

    /// The place of something beside it.
    fn beside(&self, suffix: &str) -> Result<Path, String> {
        let mut parts: Vec<_> = self.path.parts().collect();
        let Some(name) = parts.pop() else {
            return Err(
                "the root of a store has no place beside it for the manifest; accepted: a \
                        directory below"
                    .into(),
            );
        };
        let name = format!("{}{suffix}", name.as_ref());
        Ok(Path::from_iter(parts).join(name.as_str()))
    }

    fn lock_path(&self, local: &FilePath) -> Result<PathBuf, String> {
        let Some(name) = local.file_name() else {
            return Err("accepted: a directory below the root".into());
        };
        let mut name = name.to_owned();
        name.push(LOCK);
        Ok(local.with_file_name(name))
    }

    /// The claim that a run needs to write here. A single object needs none: it appears whole, and the
    /// last one stays.
    async fn claim(&self, run: &str) -> Result<Option<Claim>, String> {
        match &self.local {
            Some(local) => Claim::lock(self.lock_path(local)?).map(Some),
            None if self.is_directory => {
                let place = self.beside(CLAIM)?;
                let claim = Claim::lease(Arc::clone(&self.store), place, run).await;
                claim.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Every file that is there, by path within the directory; those of unfinished local writes too.
    async fn files(&self) -> Result<Vec<String>, String> {
        if let Some(local) = &self.local {
            let mut files = Vec::new();
            let walked = files_below(local, &mut files);
            walked.map_err(|error| format!("{}: {error}", local.display()))?;
            let within = |file: &PathBuf| Some(file.strip_prefix(local).ok()?.to_str()?.to_owned());
            let names: Option<Vec<String>> = files.iter().map(within).collect();
            return names.ok_or_else(|| "the name of a file there is not Unicode".into());
        }
        let listed: object_store::Result<Vec<_>> =
            self.store.list(Some(&self.path)).try_collect().await;
        let listed = listed.map_err(|error| error.to_string())?;
        let within = listed.iter().filter_map(|file| {
            let parts = file.location.prefix_match(&self.path)?;
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        });
        Ok(within.filter(|name| !name.is_empty()).collect())
    }

    /// Removes a file by its path within the directory.
    async fn remove(&self, file: &str) -> Result<(), String> {
        if let Some(local) = &self.local {
            let path = local.join(file);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
            // Partitions that are empty now; one that is not stays.
            let mut folder = path.parent();
            while let Some(empty) = folder.filter(|folder| *folder != local) {
                if std::fs::remove_dir(empty).is_err() {
                    break;
                }
                folder = empty.parent();
            }
            return Ok(());
        }
        let path = file
            .split('/')
            .fold(self.path.clone(), |path, part| path.join(part));
        match self.store.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes what a killed run left of a single local file: `name#1` and so on.
    fn remove_unfinished(&self) -> std::io::Result<()> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let (Some(folder), Some(name)) = (local.parent(), local.file_name()) else {
            return Ok(());
        };
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name();
            let (file, name) = (file.to_string_lossy(), name.to_string_lossy());
            let number = file
                .strip_prefix(&*name)
                .and_then(|rest| rest.strip_prefix('#'));
            if number.is_some_and(|of| !of.is_empty() && of.bytes().all(|b| b.is_ascii_digit())) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn files_below(folder: &FilePath, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// A name that no other run has: `ches-`, the time, and 16 random digits.
fn new_run() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{RUN}{}-{random:016x}", Utc::now().format("%Y%m%dT%H%M%SZ"))
}

/// Whether a file is one that a run wrote, by its name.
fn is_of_a_run(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let Some((time, rest)) = name.strip_prefix(RUN).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let random = rest.split('-').next().unwrap_or_default();
    time.len() == 16
        && time.ends_with('Z')
        && random.len() == 16
        && random.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A run that writes. Dropping it clears away what it wrote.
#[derive(Debug)]
struct Output {
    /// None when it is over.
    open: Option<Open>,
    clearing: Clearing,
}

#[derive(Debug)]
struct Open {
    run: String,
    began: String,
    target: Target,
    claim: Option<Claim>,
    store: Arc<RunStore>,
    before: Option<Committed>,
    /// Whether it may be committed, for all that is known: then nothing of it is removed.
    may_be_committed: bool,
}

impl Drop for Output {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        open.store.end();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let task = runtime.spawn(open.clear());
            let mut tasks = self
                .clearing
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            tasks.push(task);
        }
    }
}

impl Output {
    /// Claims a place, and removes what killed runs left there.
    async fn begin(
        ctx: &SessionContext,
        target: Target,
        clearing: &Clearing,
    ) -> Result<Self, String> {
        let run = new_run();
        let claim = target.claim(&run).await?;
        let prefix = if target.is_directory {
            format!("{run}-")
        } else {
            String::new()
        };
        let store = Arc::new(RunStore::new(Arc::clone(&target.store), prefix));
        // From here on the claim is given back whatever happens.
        let mut output = Self {
            open: Some(Open {
                began: now(),
                store: Arc::clone(&store),
                claim,
                target,
                before: None,
                may_be_committed: false,
                run,
            }),
            clearing: clearing.clone(),
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
        ctx.register_object_store(&url, store);
        Ok(output)
    }

    /// Runs the plan into the run's store, and commits.
    async fn write(
        &mut self,
        ctx: &SessionContext,
        plan: LogicalPlan,
        scorer: &dyn Scorer,
    ) -> Result<Vec<RecordBatch>> {
        let Some(open) = &mut self.open else {
            return Err(DataFusionError::Internal("a run that is over".into()));
        };
        let url = open.url()?;
        let plan = plan.transform_down(|node| {
            Ok(match node {
                LogicalPlan::Copy(mut copy) => {
                    // The store is open, and plans are logged.
                    copy.options.retain(|option, _| !is_of_an_account(option));
                    Transformed::yes(LogicalPlan::Copy(CopyTo {
                        output_url: open.output_url(&url),
                        ..copy
                    }))
                }
                other => Transformed::no(other),
            })
        })?;
        let frame = ctx.execute_logical_plan(plan.data).await?;
        let settings = ctx.copied_config();
        let settings = settings.options().extensions.get::<ChesSettings>().cloned();
        let plan = frame.create_physical_plan().await?;
        let answer = collect(Arc::clone(&plan), ctx.task_ctx()).await?;
        let rows = rows_written(&plan, &answer);
        open.store.end();
        let shown = open.target.url.to_string();
        let settings = settings.unwrap_or_default();
        let committing = open.commit(rows, &plan, &settings, scorer);
        let committed = tokio::time::timeout(COMMIT, committing).await;
        let committed = committed.unwrap_or_else(|_| Err("the commit took too long".into()));
        if let Err(reason) = committed {
            // The answer may have been lost, not the manifest.
            match open.is_committed().await {
                Ok(true) => {}
                Ok(false) => return Err(refused(&shown, &reason)),
                Err(unknown) => {
                    open.may_be_committed = true;
                    return Err(refused(&shown, &format!("{reason}; {unknown}")));
                }
            }
        }
        let _ = ctx.deregister_object_store(&url);
        Ok(answer)
    }

    /// Ends a run that was committed: the files of the one before go.
    async fn finish(mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let Some(before) = &open.before {
            for file in &before.manifest.files {
                if let Err(reason) = open.target.remove(&file.path).await {
                    tracing::warn!("{}: {reason}; the next run removes it", open.target.url);
                }
            }
        }
        if let Some(claim) = open.claim {
            claim.release().await;
        }
    }

    /// Ends a run that failed.
    async fn discard(mut self) {
        if let Some(open) = self.open.take() {
            open.store.end();
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

    /// Looks at what is there already.
    async fn prepare(&mut self) -> Result<(), String> {
        if !self.target.is_directory {
            let removed = self.target.remove_unfinished();
            return removed.map_err(|error| error.to_string());
        }
        let place = self.target.beside(MANIFEST)?;
        let before = manifest::read(&*self.target.store, &place).await;
        self.before = before.map_err(|error| error.to_string())?;
        let committed: BTreeSet<&str> = match &self.before {
            None => BTreeSet::new(),
            Some(before) => before
                .manifest
                .files
                .iter()
                .map(|of| &of.path[..])
                .collect(),
        };
        let files = self.target.files().await?;
        let is_foreign = |file: &&String| !committed.contains(&file[..]) && !is_of_a_run(file);
        if let Some(foreign) = files.iter().find(is_foreign) {
            return Err(format!(
                "holds '{foreign}', which no run of ches wrote; accepted: a new or empty directory, \
                 or one that COPY wrote before"
            ));
        }
        let leftovers: Vec<_> = files
            .iter()
            .filter(|file| !committed.contains(&file[..]))
            .collect();
        for file in &leftovers {
            self.target.remove(file).await?;
        }
        if !leftovers.is_empty() {
            let count = leftovers.len();
            tracing::info!(
                "{}: removed {count} files of runs that ended early",
                self.target.url
            );
        }
        Ok(())
    }

    /// Makes what was written the directory's content.
    async fn commit(
        &self,
        rows: u64,
        plan: &Arc<dyn ExecutionPlan>,
        settings: &ChesSettings,
        scorer: &dyn Scorer,
    ) -> Result<(), String> {
        if !self.target.is_directory {
            return Ok(());
        }
        let mut manifest = Manifest::begun(self.run.clone(), self.began.clone());
        let files = self.store.files().into_iter().map(|(path, bytes)| {
            let parts = path.prefix_match(&self.target.path);
            let parts = parts.into_iter().flatten();
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            File {
                path: parts.join("/"),
                bytes,
            }
        });
        manifest.files = files.collect();
        manifest.rows = rows;
        manifest.scores = Scores::of(plan);
        if manifest.scores.is_some() {
            manifest.provenance = scorer.provenance(settings).into_iter().collect();
        }
        let entries = datafusion::config::ExtensionOptions::entries(settings);
        manifest.settings = entries.into_iter().map(|of| (of.key, of.value)).collect();
        if let Some(claim) = &self.claim {
            claim.check().await?;
        }
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
        if self.may_be_committed {
            return;
        }
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
        } else {
            let _ = self.target.remove_unfinished();
        }
        if let Some(claim) = self.claim {
            claim.release().await;
        }
    }
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
