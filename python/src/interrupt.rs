//! Ctrl-C during calls that block the threads of another DataFusion.
//!
//! Python tells its main thread alone that a signal came, and that one looks only when a thread of the
//! query's runtime is free. So while calls block, SIGINT is counted before Python's handler gets it, and
//! where Python answers it as usual, by `KeyboardInterrupt`, the calls end.

use std::sync::Arc;

use datafusion::common::exec_datafusion_err;
use datafusion_ches::ches_udfs::Interruption;
use pyo3::prelude::*;

/// Whether Python answers SIGINT by `KeyboardInterrupt`.
struct Handlers {
    getsignal: Py<PyAny>,
    default: Py<PyAny>,
    number: Py<PyAny>,
}

impl Handlers {
    fn import(py: Python<'_>) -> PyResult<Self> {
        let signal = py.import("_signal")?;
        let get = |name| signal.getattr(name).map(Bound::unbind);
        Ok(Self {
            getsignal: get("getsignal")?,
            default: get("default_int_handler")?,
            number: get("SIGINT")?,
        })
    }

    /// Runs no Python code, in which a pending signal would be raised.
    fn is_default(&self, py: Python<'_>) -> bool {
        let now = self.getsignal.call1(py, (&self.number,));
        now.is_ok_and(|now| now.is(&self.default))
    }
}

/// Ends calls on Ctrl-C; `KeyboardInterrupt` is Python's own, after the query has failed.
///
/// # Errors
/// When Python has no signals.
pub(crate) fn ctrl_c(py: Python<'_>) -> PyResult<Interruption> {
    let handlers = Arc::new(Handlers::import(py)?);
    Ok(Arc::new(move || {
        let handlers = Arc::clone(&handlers);
        let presses = presses::Counting::begin();
        Box::new(move || {
            let is_pressed = presses.any();
            // Only now, since a thread that waits for this call may hold the interpreter.
            if is_pressed && Python::try_attach(|py| handlers.is_default(py)) == Some(true) {
                return Err(exec_datafusion_err!("interrupted"));
            }
            Ok(())
        })
    }))
}

#[cfg(unix)]
mod presses {
    use std::ffi::{c_int, c_void};
    use std::mem::{transmute, zeroed};
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    static COUNT: AtomicUsize = AtomicUsize::new(0);

    /// What SIGINT did before, for the handler.
    static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
    static PREVIOUS_FLAGS: AtomicUsize = AtomicUsize::new(0);

    /// The calls that count, and what to put back when there is none any more.
    static CALLS: Mutex<(usize, Option<libc::sigaction>)> = Mutex::new((0, None));

    type Handler = extern "C" fn(c_int);
    type LongHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

    extern "C" fn count(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let previous = PREVIOUS.load(Ordering::Relaxed);
        if previous == libc::SIG_IGN || previous == libc::SIG_DFL {
            return;
        }
        let flags = PREVIOUS_FLAGS.load(Ordering::Relaxed) as c_int;
        // SAFETY: these are a handler and its flags, which tell its form.
        unsafe {
            if flags & libc::SA_SIGINFO != 0 {
                transmute::<usize, LongHandler>(previous)(signal, info, context);
            } else {
                transmute::<usize, Handler>(previous)(signal);
            }
        }
    }

    fn calls() -> MutexGuard<'static, (usize, Option<libc::sigaction>)> {
        CALLS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from now on until it is dropped.
    pub(super) struct Counting {
        before: usize,
    }

    impl Counting {
        pub(super) fn begin() -> Self {
            let mut calls = calls();
            calls.0 += 1;
            if calls.0 == 1 {
                calls.1 = install();
            }
            Self {
                before: COUNT.load(Ordering::Relaxed),
            }
        }

        /// Whether SIGINT came.
        pub(super) fn any(&self) -> bool {
            COUNT.load(Ordering::Relaxed) != self.before
        }
    }

    /// Counts before what is done now; none where there is no handler to be called after.
    fn install() -> Option<libc::sigaction> {
        // SAFETY: the structures are plain data, and live longer than the calls.
        unsafe {
            let mut now: libc::sigaction = zeroed();
            libc::sigaction(libc::SIGINT, null_mut(), &mut now);
            if now.sa_sigaction == libc::SIG_DFL || now.sa_sigaction == libc::SIG_IGN {
                return None;
            }
            PREVIOUS.store(now.sa_sigaction, Ordering::Relaxed);
            PREVIOUS_FLAGS.store(now.sa_flags as usize, Ordering::Relaxed);
            let mut counting = now;
            counting.sa_sigaction = count as LongHandler as usize;
            counting.sa_flags |= libc::SA_SIGINFO;
            libc::sigaction(libc::SIGINT, &counting, null_mut());
            Some(now)
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            let mut calls = calls();
            calls.0 -= 1;
            if calls.0 > 0 {
                return;
            }
            let Some(previous) = calls.1.take() else {
                return;
            };
            // SAFETY: as above.
            unsafe {
                let mut now: libc::sigaction = zeroed();
                libc::sigaction(libc::SIGINT, null_mut(), &mut now);
                // Somebody else may have put another there meanwhile.
                if now.sa_sigaction == count as LongHandler as usize {
                    libc::sigaction(libc::SIGINT, &previous, null_mut());
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod presses {
    /// Nothing is counted here: a call ends with its batch.
    pub struct Counting;

    impl Counting {
        pub fn begin() -> Self {
            Self
        }

        pub fn any(&self) -> bool {
            false
        }
    }
}
