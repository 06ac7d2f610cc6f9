//! Scores. In come rows and settings through the door to SQL ([`ches_udfs::Scorer`]), out come scores:
//! remembered ones, and new ones by the engine.

mod accounting;
pub mod encoded_pair;
mod from_settings;
pub mod memo;
pub mod observer;
mod run;
pub mod score;
pub mod score_cache;
pub mod scorer;
