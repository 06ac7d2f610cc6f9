//! CHES scores and likelihood-displacement signals for preference data, as SQL functions for
//! Apache DataFusion.
//!
//! ```no_run
//! use datafusion::prelude::SessionContext;
//!
//! # async fn example() -> datafusion::error::Result<()> {
//! let ctx = SessionContext::new();
//! datafusion_ches::Ches::new().with_model("model.gguf").register(&ctx)?;
//! ctx.register_parquet("pairs", "pairs.parquet", Default::default()).await?;
//! ctx.sql("SELECT id, ches(prompt, chosen, rejected) AS score FROM pairs ORDER BY score DESC")
//!     .await?
//!     .show()
//!     .await
//! # }
//! ```
//!
//! This crate is the model side: model files, tokenizers, chat templates, and one decoder run by
//! candle. The SQL side is [`ches_udfs`]; between the two stands the async trait
//! [`ches_udfs::Scorer`].

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod accounting;
mod budget;
mod chat_template;
#[cfg(all(feature = "cuda", unix))]
mod cuda_libraries;
pub mod decoder;
mod device;
mod engine;
mod error;
pub mod families;
mod format;
mod from_settings;
pub mod gguf;
mod gguf_tokenizer;
#[cfg(feature = "remote")]
pub mod hub;
mod jinja;
mod mapped_file;
mod memo;
mod memory;
mod model;
pub mod model_directory;
mod observer;
mod open_models;
mod packing;
mod places;
mod plugin;
mod run;
mod scheduler;
mod score;
mod score_cache;
mod scorer;
mod sequence;
mod small_file;
mod special_tokens;
mod stores;
pub mod tables;
mod tokenizer;
mod tokenizer_class;
mod tokenizer_files;
mod weights;

pub use ches_udfs;
pub use ches_udfs::{ChesSettings, ModelDtype, OnError, PromptFormat};
pub use device::open as devices;
pub use error::ModelError;
pub use observer::Observer;
pub use plugin::{Ches, register};
pub use score_cache::compact::{Compacted, compact as compact_cache};
pub use score_cache::flush as flush_cache;
pub use scorer::{EncodedPair, ModelScorer};
pub use weights::Target;
