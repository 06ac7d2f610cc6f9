//! A bound on the work of one rendering.

use std::cell::Cell;

use super::error::{Error, Result};

/// Steps that one rendering may take: far above any real conversation.
const STEPS: u64 = 5_000_000;

/// Bytes of text that are written in one step.
const BYTES_A_STEP: usize = 16;

/// The longest text that one repetition or padding may make.
const MOST_PADDED: usize = 16 << 20;

/// What is left of a rendering's steps.
#[derive(Debug)]
pub(super) struct Fuel {
    left: Cell<u64>,
}

impl Fuel {
    /// The steps of one rendering.
    pub(super) fn full() -> Self {
        Self {
            left: Cell::new(STEPS),
        }
    }

    /// Takes some steps.
    ///
    /// # Errors
    /// When there are not so many left.
    pub(super) fn spend(&self, steps: usize) -> Result<()> {
        match self.left.get().checked_sub(steps as u64) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(Error::new(format!(
                    "the rendering takes more than {STEPS} steps"
                )))
            }
        }
    }

    /// Takes the steps that writing so many bytes costs.
    ///
    /// # Errors
    /// As [`Self::spend`].
    pub(super) fn write(&self, bytes: usize) -> Result<()> {
        self.spend(bytes / BYTES_A_STEP + 1)
    }

    /// Takes the steps of a text or a list that is made by repetition or padding.
    ///
    /// # Errors
    /// As [`Self::spend`], and when it is too large.
    pub(super) fn repeat(&self, length: usize, times: usize) -> Result<()> {
        match length.checked_mul(times) {
            Some(size) if size <= MOST_PADDED => self.write(size),
            _ => Err(Error::new(format!(
                "a repetition of {length} times {times}; accepted: up to {MOST_PADDED}"
            ))),
        }
    }
}
