//! How much of the files of a table is looked at before it is read, to find its columns.

use std::sync::Arc;

use object_store::{ObjectMeta, ObjectStore};

use super::bytes::is_local;

/// Of files on this machine, in all: most are looked at whole.
const LOCAL: usize = 1 << 30;

/// Of files elsewhere, in all.
const REMOTE: usize = 4 << 20;

/// Of each file at least, until nothing is left of the whole.
const OF_FILE: usize = 64 << 10;

/// What is left to look at.
#[derive(Debug)]
pub(super) struct Sample {
    bytes: usize,
    records: usize,
    files: usize,
    of_file: usize,
}

impl Sample {
    /// Of these files.
    pub(super) fn of(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Self {
        Self {
            bytes: if is_local(store) { LOCAL } else { REMOTE },
            records: usize::MAX,
            files: files.len(),
            of_file: 0,
        }
    }

    /// Of so many records, of however many bytes.
    pub(super) fn of_records(records: usize) -> Self {
        Self {
            bytes: usize::MAX,
            records,
            files: 1,
            of_file: 0,
        }
    }

    /// Whether the next file is looked at.
    pub(super) fn begin_file(&mut self) -> bool {
        // What a small file leaves is the others'.
        self.of_file = (self.bytes / self.files.max(1)).max(OF_FILE);
        self.files = self.files.saturating_sub(1);
        self.bytes > 0 && self.records > 0
    }

    /// Bytes of this file that may still be looked at.
    pub(super) fn left_of_file(&self) -> usize {
        self.of_file.min(self.bytes)
    }

    /// Takes a record's bytes. Whether more may be looked at in this file.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.of_file = self.of_file.saturating_sub(bytes);
        self.records = self.records.saturating_sub(1);
        self.left_of_file() > 0 && self.records > 0
    }
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn files_elsewhere_are_looked_at_in_part() {
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        assert!(is_local(&local));
        let remote: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let file = ObjectMeta {
            location: "a".into(),
            last_modified: chrono::DateTime::default(),
            size: 0,
            e_tag: None,
            version: None,
        };
        let mut sample = Sample::of(&remote, &[file.clone(), file]);
        assert!(sample.begin_file());
        assert!(sample.take(REMOTE / 4));
        assert!(!sample.take(REMOTE / 4));
        assert!(sample.begin_file());
        assert!(sample.take(REMOTE / 4));
        assert!(!sample.take(REMOTE / 2));
        assert!(!sample.begin_file());
    }
}
