//! Scores. In come rows and settings through the door to SQL ([`ches_udfs::Scorer`]), out come scores:
//! remembered ones, and new ones by the engine.

mod accounting;
pub(crate) mod encoded_pair;
mod from_settings;
pub(crate) mod memo;
pub(crate) mod observer;
mod run;
pub(crate) mod score;
pub(crate) mod score_cache;
pub(crate) mod scorer;
