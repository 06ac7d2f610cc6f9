//! Models and what is scored by them, within this process. One program: each would take a minute to
//! compile.

mod composition;
mod declared_keys;
mod devices;
mod displacement;
mod families;
mod gguf_shards;
mod hostile_directory;
#[path = "../support/one_pair.rs"]
mod one_pair;
mod parity;
mod poisoned;
mod rows;
mod scoring;
#[path = "../support/seeded.rs"]
mod seeded;
#[path = "../../udfs/tests/support/slt.rs"]
mod slt;
mod sql;
#[path = "../suites/mod.rs"]
mod suites;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_gguf.rs"]
mod tiny_gguf;
