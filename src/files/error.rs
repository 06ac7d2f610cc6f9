//! What can be wrong with a model, and what candle says.

use std::path::Path;

/// A model that cannot be used: the file and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ModelError {
    place: String,
    reason: String,
}

impl ModelError {
    /// An error about the model file or directory at `path`.
    pub fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self {
            place: path.display().to_string(),
            reason: reason.into(),
        }
    }
}

/// What candle says, without the backtrace that it adds where `RUST_BACKTRACE` asks for one.
pub(crate) fn said(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => said(inner),
        candle_core::Error::WithPath { inner, path } => {
            format!("path: {} {}", path.display(), said(inner))
        }
        candle_core::Error::Context { inner, context } => format!("{context}: {}", said(inner)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Error;

    use super::said;

    #[test]
    fn no_backtrace_is_said() {
        let error = Error::WithBacktrace {
            inner: Box::new(Error::Msg("no such kernel".into())),
            backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
        };
        assert!(error.to_string().lines().count() > 1);
        assert_eq!(said(&error), "no such kernel");
        assert_eq!(said(&error.context("a layer")), "a layer: no such kernel");
    }
}
