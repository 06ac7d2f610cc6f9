//! The SQL side against scorers that count.

mod ahead;
mod arrow_forms;
mod late_reading;
mod plans;
mod random_queries;
mod slt_files;
#[path = "../support/mod.rs"]
mod support;
