//! What scoring keeps, gives up and takes memory for, within this process.

mod dropped_query;
mod memo;
mod memory_pool;
mod score_cache;
