//! The command, run as users run it.

mod cli;
mod data;
#[cfg(feature = "delta")]
mod delta;
#[cfg(all(feature = "cluster", feature = "delta"))]
mod documentation;
#[path = "../support/faulty_proxy.rs"]
mod faulty_proxy;
mod house;
mod hub;
#[path = "../support/hub_server.rs"]
mod hub_server;
mod object_storage;
mod places;
#[path = "../support/s3_server.rs"]
mod s3_server;
#[path = "../support/seeded.rs"]
mod seeded;
mod summary;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_gguf.rs"]
mod tiny_gguf;
mod warnings;
