//! What scoring keeps, gives up and takes memory for, within this process.

mod dropped_query;
mod memo;
mod memory_pool;
mod score_cache;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_gguf.rs"]
mod tiny_gguf;
