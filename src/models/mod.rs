//! Models. In come files, out come their tokenizer, template, configuration and decoder; what has a decoder
//! compute is known by a trait.

pub mod engine;
pub mod families;
pub mod group;
pub mod model;
pub mod open_models;
