//! Files. In come places of models and of data, out come their bytes, tensors, descriptions and tables: nothing
//! here knows what a model computes.

pub(crate) mod error;
pub mod gguf;
#[cfg(feature = "remote")]
pub mod hub;
pub(crate) mod locations;
pub(crate) mod mapped_file;
pub(crate) mod memory;
pub mod model_directory;
mod small_file;
pub(crate) mod special_tokens;
pub(crate) mod stores;
pub mod tables;
pub(crate) mod tokenizer_class;
pub(crate) mod tokenizer_files;
pub(crate) mod weights;
