//! The engine. In come groups of sequences, from every query of the process; out come their embeddings and
//! log-probabilities, computed in batches on the devices there are.

pub(crate) mod budget;
#[cfg(all(feature = "cuda", unix))]
mod cuda_libraries;
pub(crate) mod device;
mod forward;
pub(crate) mod packing;
pub(crate) mod scheduler;
