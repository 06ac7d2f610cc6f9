//! The SQL side of `datafusion-ches`.
//!
//! This crate knows SQL and Arrow, and no model. It holds the functions that a query calls, the
//! decoding of the column shapes that preference data comes in, the optimizer rule that lets
//! scores stand anywhere in a query ([`HoistScores`]), the `ches.*` settings ([`ChesSettings`]),
//! and the door to whatever computes the scores: the async trait [`Scorer`]. A team with an
//! inference engine of its own implements that trait and calls [`register`]; everybody else uses the
//! crate `datafusion-ches`, which implements it with candle.

mod array_bytes;
mod calls;
mod columns;
mod extension;
mod failures;
mod functions;
mod implicit_prompt;
mod json_messages;
mod likely_mistakes;
mod message_fields;
mod optimizer;
mod pair_reader;
mod preference_pair;
mod printable;
mod query_resources;
mod score_exec;
mod scorer;
mod settings;
mod template_variables;
mod text;

pub use calls::Interruption;
pub use extension::{SessionExtension, register};
pub use failures::Failures;
pub use functions::blocking_functions;
pub use implicit_prompt::transcript_turns;
pub use optimizer::HoistScores;
pub use pair_reader::PairReader;
pub use preference_pair::{PreferencePair, PromptedResponse};
pub use printable::quoted;
pub use query_resources::{QueryMemory, ScoreMetrics};
pub use score_exec::{ScoreExec, UseScoreExec};
pub use scorer::{
    Argument, Displacement, Job, Needs, PairScores, ResponseEmbedding, ResponseScores, RowError,
    Scorer, ScorerError, ShownPair, SimulatedDisplacement, TokenChange,
};
pub use settings::{ChesSettings, ModelDtype, OnError, PromptFormat};
pub use template_variables::TemplateVariables;
pub use text::{ASSISTANT, Content, FieldValue, MessageField, Text, Turn, USER};

/// The former name of [`SessionExtension`].
#[deprecated(since = "0.1.0", note = "renamed to `SessionExtension`")]
pub type Pieces = SessionExtension;
