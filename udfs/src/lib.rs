//! The SQL side of `datafusion-ches`.
//!
//! This crate knows SQL and Arrow, and no model. It holds the functions that a query calls
//! ([`functions`]), the decoding of the column shapes that preference data comes in, the
//! `ches.*` settings ([`ChesSettings`]), and the door to whatever computes the scores: the
//! async trait [`Scorer`]. A team with an inference engine of its own implements that trait
//! and calls [`register`]; everybody else uses the crate `datafusion-ches`, which implements
//! it with candle.

mod columns;
pub mod functions;
mod implicit_prompt;
mod metrics;
pub mod optimizer;
mod scorer;
mod settings;
mod text;

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;

pub use implicit_prompt::transcript_turns;
pub use metrics::ScoreMetrics;
pub use scorer::{
    Argument, Job, Needs, PairScores, PreferencePair, PromptedResponse, ResponseEmbedding,
    ResponseScores, RowError, Scorer, ScorerError,
};
pub use settings::{ChesSettings, OnError, PromptFormat};
pub use text::{ASSISTANT, Text, Turn, USER};

/// Makes a [`SessionContext`] speak CHES: adds every function of this crate, computed by
/// `scorer`, and the `ches.*` settings, starting from `settings`.
///
/// A host that builds its `SessionState` itself takes the pieces one by one instead:
/// [`functions::all`], and [`ChesSettings`] as an extension of its `ConfigOptions`.
pub fn register(
    ctx: &SessionContext,
    scorer: Arc<dyn Scorer>,
    settings: ChesSettings,
) -> Result<()> {
    let pieces = functions::all(scorer);
    let state = ctx.state_ref();
    let mut state = state.write();
    let options = state.config_mut().options_mut();
    options.extensions.insert(settings);
    for function in pieces.functions {
        state.register_udf(function)?;
    }
    state.register_function_rewrite(pieces.field_access)?;
    drop(state);
    ctx.add_optimizer_rule(pieces.hoist_scores);
    Ok(())
}
