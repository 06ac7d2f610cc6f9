//! The Hugging Face Hub: a client of its API for models and data sets, and data sets as an object store.
//!
//! The account is that of `HF_TOKEN`, or else of the token that `hf auth login` stored; `HF_ENDPOINT` names another
//! Hub. Requests are tried again where that may help. The token goes to the Hub only and to no host that it
//! redirects to.

mod body;
mod client;
mod datasets;

pub use body::{Body, Located, open};
pub use client::{Client, HubError, Kind};
pub use datasets::DatasetStore;
