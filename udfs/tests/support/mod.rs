//! What the SQL tests need: an engine that runs SQL in a DataFusion session, a scorer that
//! counts, and a generator of queries.

// Each test program uses a part of this.
#![allow(dead_code)]

pub(crate) mod fake_scorer;
pub(crate) mod random_query;
pub(crate) mod slt;
