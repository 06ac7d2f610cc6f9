//! Who may write a place: one run at a time.
//!
//! A local place has a locked file beside it, which the system unlocks when its process ends, however it
//! ends. An object store has an object that its run keeps changing; one that has not changed for
//! [`LEASE`] is of a run that was killed, and is taken over. One of a process of this machine that is no
//! more is taken over at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::manifest::put_if;
use super::run_names::is_of_a_run;

/// A claim that does not change for so long is abandoned.
const LEASE: Duration = Duration::from_secs(60);

/// How often it is changed.
const BEAT: Duration = Duration::from_secs(15);

/// How often somebody else's is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The right to write a place.
#[derive(Debug)]
pub(super) enum Claim {
    Lock(Lock),
    Lease(Lease),
}

/// A locked file, which holds the names of the runs that may have left something.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Locked until this is dropped.
    _file: File,
    killed: Vec<String>,
}

impl Drop for Lock {
    /// Removes the file while it is locked: who opened it meanwhile looks whether it is still there.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// An object that is changed again and again.
#[derive(Debug)]
pub(super) struct Lease {
    held: Arc<Held>,
    beating: AbortHandle,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// What is written into a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Holder {
    run: String,
    host: String,
    /// What process numbers are of: a start of a machine, and a namespace in it. Empty where that is not
    /// known.
    #[serde(default)]
    machine: String,
    process: u32,
    /// When that process started, seconds since 1970.
    started: u64,
    beat: u64,
    /// Runs before that may have left something.
    #[serde(default)]
    killed: Vec<String>,
}

#[derive(Debug)]
struct Held {
    store: Arc<dyn ObjectStore>,
    place: Path,
    state: Mutex<(Holder, UpdateVersion)>,
}

impl Claim {
    /// Locks a file at a path, for what is written beside it.
    ///
    /// # Errors
    /// When another process has locked it, or it cannot be made.
    pub(super) fn lock(path: PathBuf, run: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // Neither a link nor a file of somebody else is written.
        if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(format!("{} is no lock of ches", path.display()));
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        loop {
            let mut file = options.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(format!(
                        "another run is writing here ({} is locked)",
                        path.display()
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Whoever had it may have removed it between the two steps.
            if is_at(&file, &path) {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let killed: Vec<String> = text.lines().map(str::to_owned).collect();
                if !killed.iter().all(|line| is_of_a_run(line)) {
                    return Err(format!("{} is no lock of ches", path.display()));
                }
                writeln!(file, "{run}").map_err(failed)?;
                return Ok(Self::Lock(Lock {
                    path,
                    _file: file,
                    killed,
                }));
            }
        }
    }

    /// Claims an object store's place by an object of this name.
    ///
    /// # Errors
    /// When another run holds it, or the store fails or knows no conditional writes.
    pub(super) async fn lease(
        store: Arc<dyn ObjectStore>,
        place: Path,
        run: &str,
    ) -> Result<Self, String> {
        let failed = |error: Error| format!("{place}: {error}");
        let mut holder = Holder::of_this_process(run);
        let mut mode = PutMode::Create;
        let version = loop {
            match put_if(&*store, &place, holder.bytes(), mode).await {
                Ok(version) => break version,
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    mode = match until_abandoned(&*store, &place).await.map_err(failed)? {
                        Abandoned::Gone => PutMode::Create,
                        Abandoned::Left(version, before) => {
                            holder.killed = before.map_or_else(Vec::new, |before| {
                                before.killed.into_iter().chain([before.run]).collect()
                            });
                            PutMode::Update(version)
                        }
                        Abandoned::Not(other) => {
                            return Err(format!(
                                "another run is writing here: {} of process {} on {}",
                                other.run, other.process, other.host
                            ));
                        }
                    };
                }
                Err(error) => return Err(failed(error)),
            }
        };
        let held = Arc::new(Held {
            store,
            place,
            state: Mutex::new((holder, version)),
        });
        let beating = Arc::clone(&held);
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = beating.beat().await {
                    tracing::warn!("{}: {error}", beating.place);
                }
            }
        });
        Ok(Self::Lease(Lease {
            held,
            beating: beating.abort_handle(),
        }))
    }

    /// Whether it is still this run's.
    ///
    /// # Errors
    /// When another run has taken over, or the store fails.
    pub(super) async fn check(&self) -> Result<(), String> {
        match self {
            Self::Lock(_) => Ok(()),
            Self::Lease(lease) => {
                let beaten = lease.held.beat().await;
                beaten.map_err(|error| match error {
                    Error::Precondition { .. } | Error::NotFound { .. } => {
                        "another run has taken over, since this one was not heard of".to_owned()
                    }
                    error => error.to_string(),
                })
            }
        }
    }

    /// Runs that were killed here, and may have left something.
    pub(super) async fn killed(&self) -> Vec<String> {
        match self {
            Self::Lock(lock) => lock.killed.clone(),
            Self::Lease(lease) => lease.held.state.lock().await.0.killed.clone(),
        }
    }

    /// Whether no other run writes, whatever the store knows of conditions.
    pub(super) fn is_lock(&self) -> bool {
        matches!(self, Self::Lock(_))
    }

    /// Gives it back.
    pub(super) async fn release(self) {
        if let Self::Lease(lease) = self {
            lease.beating.abort();
            // Only if it is still held.
            if lease.held.beat().await.is_ok() {
                let _ = lease.held.store.delete(&lease.held.place).await;
            }
        }
    }
}

impl Held {
    async fn beat(&self) -> object_store::Result<()> {
        let mut state = self.state.lock().await;
        state.0.beat += 1;
        let mode = PutMode::Update(state.1.clone());
        state.1 = put_if(&*self.store, &self.place, state.0.bytes(), mode).await?;
        Ok(())
    }
}

impl Holder {
    fn of_this_process(run: &str) -> Self {
        let process = std::process::id();
        Self {
            run: run.to_owned(),
            host: System::host_name().unwrap_or_default(),
            machine: machine(),
            process,
            started: start_time(process).unwrap_or_default(),
            beat: 0,
            killed: Vec::new(),
        }
    }

    /// Whether it was a process of this machine that is no more.
    fn is_dead(&self) -> bool {
        let is_here = !self.machine.is_empty() && self.machine == machine();
        is_here && start_time(self.process) != Some(self.started)
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Of Linux; elsewhere nothing tells containers of one name apart.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

fn start_time(process: u32) -> Option<u64> {
    let pid = Pid::from_u32(process);
    let mut system = System::new();
    let which = ProcessesToUpdate::Some(&[pid]);
    system.refresh_processes_specifics(which, true, ProcessRefreshKind::nothing());
    system.process(pid).map(sysinfo::Process::start_time)
}

/// Whether a file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(of_file), Ok(at_path)) => of_file.ino() == at_path.ino(),
        _ => false,
    }
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &std::path::Path) -> bool {
    true
}

/// The state of another run's claim.
enum Abandoned {
    /// It was given back.
    Gone,
    /// Its run was killed; this is its last state.
    Left(UpdateVersion, Option<Holder>),
    /// Its run is at work.
    Not(Holder),
}

/// Watches a claim until it changes, or has not for too long.
async fn until_abandoned(store: &dyn ObjectStore, place: &Path) -> object_store::Result<Abandoned> {
    let mut first: Option<(UpdateVersion, Instant)> = None;
    loop {
        let got = match store.get(place).await {
            Ok(got) => got,
            Err(Error::NotFound { .. }) => return Ok(Abandoned::Gone),
            Err(error) => return Err(error),
        };
        let version = UpdateVersion {
            e_tag: got.meta.e_tag.clone(),
            version: got.meta.version.clone(),
        };
        let holder: Option<Holder> = serde_json::from_slice(&got.bytes().await?).ok();
        match (&holder, &first) {
            (Some(of), _) if of.is_dead() => return Ok(Abandoned::Left(version, holder)),
            (_, None) => {
                let of_whom = holder.as_ref().map_or_else(String::new, |of| {
                    format!(" by {} (process {} on {})", of.run, of.process, of.host)
                });
                tracing::warn!(
                    "{place}: claimed{of_whom}; taken over if nothing is heard of it for {} s",
                    LEASE.as_secs()
                );
                first = Some((version, Instant::now()));
            }
            (Some(holder), Some((before, _))) if before.e_tag != version.e_tag => {
                return Ok(Abandoned::Not(holder.clone()));
            }
            (_, Some((_, since))) if since.elapsed() >= LEASE => {
                return Ok(Abandoned::Left(version, holder));
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const RUN: &str = "ches-20261124T000000Z-0123456789abcdef";

    fn place() -> Path {
        Path::from("out.ches-run.json")
    }

    #[test]
    fn one_process_at_a_time_locks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/out.ches-run.lock");
        let first = Claim::lock(path.clone(), RUN).unwrap();
        let refused = Claim::lock(path.clone(), RUN).unwrap_err();
        assert!(refused.contains("another run is writing here"), "{refused}");
        drop(first);
        assert!(!path.exists());
        // No process holds the lock of one that was killed.
        std::fs::write(&path, format!("{RUN}\n")).unwrap();
        drop(Claim::lock(path.clone(), RUN).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "somebody's").unwrap();
        assert!(Claim::lock(path.clone(), RUN).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
    }

    #[tokio::test]
    async fn a_lease_is_given_back() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let claim = Claim::lease(Arc::clone(&store), place(), "ches-1")
            .await
            .unwrap();
        claim.check().await.unwrap();
        claim.release().await;
        assert!(matches!(
            store.head(&place()).await,
            Err(Error::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn the_claim_of_a_dead_process_is_taken_over() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut dead = Holder::of_this_process("ches-1");
        assert!(!dead.is_dead());
        dead.started += 1;
        assert!(dead.is_dead());
        // In another container nothing is known of it.
        let elsewhere = Holder {
            machine: format!("{} other", dead.machine),
            ..dead.clone()
        };
        assert!(!elsewhere.is_dead());
        store.put(&place(), dead.bytes().into()).await.unwrap();
        let claim = Claim::lease(Arc::clone(&store), place(), "ches-2")
            .await
            .unwrap();
        claim.check().await.unwrap();

        // Somebody else takes it over: it is neither held nor given back any more.
        let other = Holder::of_this_process("ches-3");
        store.put(&place(), other.bytes().into()).await.unwrap();
        assert!(
            claim
                .check()
                .await
                .unwrap_err()
                .contains("another run has taken over")
        );
        claim.release().await;
        assert!(store.head(&place()).await.is_ok());
    }

    #[tokio::test]
    async fn a_claim_that_changes_is_not_abandoned() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut holder = Holder::of_this_process("ches-1");
        store.put(&place(), holder.bytes().into()).await.unwrap();
        let changing = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                holder.beat += 1;
                changing.put(&place(), holder.bytes().into()).await.unwrap();
            }
        });
        let refused = Claim::lease(store, place(), "ches-2").await.unwrap_err();
        assert!(
            refused.contains("another run is writing here: ches-1"),
            "{refused}"
        );
    }
}
