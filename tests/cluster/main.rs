//! Ballista: the command as its processes, and the SQL logic tests by it.

#[path = "../support/ballista.rs"]
mod ballista;
#[allow(dead_code)]
#[path = "../../udfs/tests/support/fake_scorer.rs"]
mod fake_scorer;
#[path = "../support/jobs.rs"]
mod jobs;
mod processes;
#[path = "../support/s3_server.rs"]
mod s3_server;
#[path = "../../udfs/tests/support/slt.rs"]
mod slt;
mod sql;
