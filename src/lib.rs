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

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;

pub mod decoder;
mod engine;
mod files;
mod models;
mod plugin;
mod scoring;
mod texts;

pub use ches_udfs;
pub use ches_udfs::{ChesSettings, ModelDtype, OnError, PromptFormat};
pub use engine::device::open as devices;
pub use files::error::ModelError;
#[cfg(feature = "remote")]
pub use files::hub;
pub use files::weights::Target;
pub use files::{gguf, model_directory, tables};
pub use models::families;
pub use plugin::{Ches, register};
pub use scoring::encoded_pair::EncodedPair;
pub use scoring::observer::Observer;
pub use scoring::score_cache::compact::{Compacted, compact as compact_cache};
pub use scoring::score_cache::flush as flush_cache;
pub use scoring::scorer::ModelScorer;
