//! Memory that outlives a query, accounted to the pool of whichever query used it last.

use std::sync::Arc;

use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// Of a pool at most this part: a sort cannot ask for memory back that is kept for later.
const SHARE: usize = 8;

/// What something that is kept for many queries takes from a memory pool.
#[derive(Debug)]
pub(super) struct Accounted {
    name: &'static str,
    of: Option<(Arc<dyn MemoryPool>, MemoryReservation)>,
}

impl Accounted {
    /// Nothing yet, and of no pool.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, of: None }
    }

    /// From now on it is this pool's; what was taken from the one before is given back.
    pub(super) fn belong_to(&mut self, pool: &Arc<dyn MemoryPool>) {
        let is_same = |(of, _): &(Arc<dyn MemoryPool>, _)| Arc::ptr_eq(of, pool);
        if !self.of.as_ref().is_some_and(is_same) {
            let taken = MemoryConsumer::new(self.name).register(pool);
            self.of = Some((Arc::clone(pool), taken));
        }
    }

    /// Takes so many bytes, no more and no less. False where that is more than its share of the pool, or
    /// than the pool has left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let Some((pool, taken)) = &mut self.of else {
            return true;
        };
        let is_within_share = match pool.memory_limit() {
            MemoryLimit::Finite(limit) => bytes <= limit / SHARE,
            MemoryLimit::Infinite | MemoryLimit::Unknown => true,
        };
        is_within_share && taken.try_resize(bytes).is_ok()
    }
}
