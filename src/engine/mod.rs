//! The engine. In come groups of sequences, from every query of the process; out come their embeddings and
//! log-probabilities, computed in batches on the devices there are.

pub mod budget;
#[cfg(all(feature = "cuda", unix))]
mod cuda_libraries;
pub mod device;
mod forward;
pub mod packing;
pub mod scheduler;
