//! Models. In come files, out come their tokenizer, template, configuration and decoder; what has a decoder
//! compute is known by a trait.

pub(crate) mod engine;
pub mod families;
pub(crate) mod group;
pub(crate) mod model;
pub(crate) mod open_models;
