//! Files that are read where they lie.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

/// A file mapped into memory, read-only.
///
/// One that is changed while it is mapped gives other bytes, and one that is truncated then ends
/// the process.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(Error::other("the file is empty"));
        }
        // SAFETY: the mapping is read-only and private; see the type's documentation for what a
        // change of the file under it does.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self { map })
    }

    /// What is in it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Hashes both ends of a part: enough to tell a trained tensor from what it was before.
    pub(crate) fn hash_ends(&self, part: Range<usize>, hasher: &mut blake3::Hasher) {
        const SAMPLE: usize = 4096;
        let part = &self.map[part];
        let sample = SAMPLE.min(part.len());
        hasher.update(&part[..sample]);
        hasher.update(&part[part.len() - sample..]);
    }

    /// Says that a part of it was read, so that it need not stay in memory.
    pub(crate) fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: pages of an unchanged read-only mapping of a file are read again when they
            // are next looked at. A failure leaves them in memory, which is harmless.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(DontNeed, part.start, part.len())
            };
        }
    }
}
