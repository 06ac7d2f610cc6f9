//! Being asked to stop: Ctrl-C, or SIGTERM from the system that ends the machine.

use std::io;
use std::process::exit;
use std::time::Duration;

use tokio::sync::watch;

/// The exit status of a run that was interrupted, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// A run that was asked to stop ends after so long, whatever it is doing.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether somebody asked.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on, on a thread of its own: whatever the run is doing, a second time ends it at
    /// once.
    ///
    /// # Errors
    /// When the system does not let the process listen.
    pub(super) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        let (ask, asked) = watch::channel(false);
        let listen = async move {
            signals.next().await;
            let _ = ask.send(true);
            let _ = tokio::time::timeout(DEADLINE, signals.next()).await;
            exit(INTERRUPTED.into());
        };
        std::thread::Builder::new()
            .name("ches-signals".into())
            .spawn(move || runtime.block_on(listen))?;
        Ok(Self(asked))
    }

    /// Never asked to.
    pub(super) fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Ends when somebody has asked.
    pub(super) async fn asked(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
