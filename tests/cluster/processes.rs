//! The command as a cluster on this machine: a scheduler, executors, and a client.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::jobs::{files, root, rows};

const FILES: usize = 8;
const ROWS_EACH: usize = 250;

const REAL_ROWS: usize = 20_000;
const REAL_FILES: usize = 24;

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    port: u16,
    _scheduler: Running,
}

impl Cluster {
    fn start() -> Self {
        let port = free_port();
        let scheduler = run(&["scheduler", "--port", &port.to_string()]);
        wait_for(port);
        Self {
            port,
            _scheduler: scheduler,
        }
    }

    fn url(&self) -> String {
        format!("df://127.0.0.1:{}", self.port)
    }

    /// An executor that is known to the scheduler when this returns.
    fn executor(&self) -> Running {
        let (port, grpc_port) = (free_port(), free_port());
        let executor = run(&[
            "executor",
            "--model",
            &model("gguf/llama.gguf"),
            "--scheduler",
            &self.url(),
            "--port",
            &port.to_string(),
            "--grpc-port",
            &grpc_port.to_string(),
            "--tasks",
            "1",
        ]);
        wait_for(grpc_port);
        executor
    }

    /// A client with the same settings as the runs that it is compared with.
    fn client(&self, model: &str, sql: &str) -> Command {
        let mut command = ches(model, sql);
        command.args(["--cluster", &self.url()]);
        command
    }
}

fn model(name: &str) -> String {
    let path = root().join("tests/goldens").join(name);
    path.to_str().unwrap().to_owned()
}

fn ches(model: &str, sql: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    command
        .args(["--model", model, "-q", "--format", "csv", "-c", sql])
        .args([
            "--set",
            "ches.prompt_format=raw",
            "--set",
            "ches.batch_tokens=1",
        ])
        .args(["--set", "ches.memo_bytes=0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    let command = command.args(arguments).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn wait_for(port: u16) {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "nobody listens at {port}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn told(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Pairs in files of a directory, each of which is a task.
fn make_pairs(folder: &Path) -> String {
    let place = folder.join("pairs");
    let mut statements = Vec::new();
    for file in 0..FILES {
        let first = file * ROWS_EACH;
        statements.push(format!(
            "COPY (SELECT value AS id, value % 3 AS part, 'What is ' || value || '?' AS prompt, \
               repeat('It is ' || value || '. ', 10 + value % 20) AS chosen, \
               repeat('No idea. ', 10 + value % 9) AS rejected \
             FROM generate_series({first}, {})) TO '{}/{file}.parquet'",
            first + ROWS_EACH - 1,
            place.display()
        ));
    }
    told(
        &ches(&model("gguf/llama.gguf"), &statements.join(";"))
            .output()
            .unwrap(),
    );
    format!("{}/", place.display())
}

/// Twenty thousand pairs of real texts, cut short, in files of a directory: each prompt with any two
/// responses.
fn make_real_pairs(folder: &Path) -> String {
    let place = folder.join("real");
    let (source, prompt, chosen, rejected) = match std::env::var("CHES_TEST_DATA") {
        Ok(data) => (
            format!("{data}/standard.parquet"),
            "prompt",
            "chosen",
            "rejected",
        ),
        Err(_) => (
            model("../../examples/data/preferences.parquet"),
            "prompt[1]['content']",
            "chosen[1]['content']",
            "rejected[1]['content']",
        ),
    };
    let all = folder.join("all.parquet");
    let mut statements = vec![format!(
        "COPY (SELECT row_number() OVER (ORDER BY a.id, b.id, k) - 1 AS id, \
           substr(a.{prompt}, 1, 60) AS prompt, substr(a.{chosen}, 1 + 40 * k, 60) AS chosen, \
           substr(b.{rejected}, 1 + 40 * k, 60) AS rejected \
         FROM '{source}' AS a CROSS JOIN '{source}' AS b CROSS JOIN (VALUES (0), (1), (2), (3)) AS of (k) \
         ORDER BY id LIMIT {REAL_ROWS}) TO '{}'",
        all.display()
    )];
    for file in 0..REAL_FILES {
        statements.push(format!(
            "COPY (SELECT * FROM '{}' WHERE id % {REAL_FILES} = {file}) TO '{}/{file}.parquet'",
            all.display(),
            place.display()
        ));
    }
    let made = ches(&model("gguf/llama.gguf"), &statements.join(";")).output();
    told(&made.unwrap());
    format!("{}/", place.display())
}

#[test]
fn a_cluster_answers_as_one_machine_does() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = make_pairs(folder.path());
    let llama = model("gguf/llama.gguf");
    let cluster = Cluster::start();
    let executors = [cluster.executor(), cluster.executor(), cluster.executor()];
    let score = "ches_normalized(prompt, chosen, rejected)";
    for sql in [
        format!("SELECT id, {score} AS s FROM '{pairs}' ORDER BY s, id"),
        format!(
            "SELECT id, {score} AS s FROM '{pairs}' WHERE {score} > -3 ORDER BY s DESC, id LIMIT 50"
        ),
        format!(
            "SELECT part, count(*), min({score}), max({score}) FROM '{pairs}' GROUP BY part ORDER BY part"
        ),
        format!(
            "SET ches.max_length = 60; SELECT id, s['truncated'], s['chosen_tokens'] FROM \
             (SELECT id, preference_scores(prompt, chosen, rejected) AS s FROM '{pairs}') ORDER BY id"
        ),
    ] {
        let here = told(&ches(&llama, &sql).output().unwrap());
        let there = told(&cluster.client(&llama, &sql).output().unwrap());
        assert!(here.lines().count() > 3, "{here}");
        assert_eq!(here, there, "{sql}");
    }

    // Another model than theirs.
    let sql = format!("SELECT count({score}) FROM '{pairs}'");
    let output = cluster
        .client(&model("families/qwen3/model"), &sql)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let expected = "and this executor's 3167d8ea3f425ab9168aad37da42a198; accepted: the same model";
    assert!(error.contains(expected), "{error}");

    // What the client writes is whole or not at all.
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let copy = |to: &str| {
        format!(
            "SET ches.max_length = 60; COPY (SELECT id, part, {score} AS score FROM '{pairs}') TO '{}/' \
             STORED AS PARQUET PARTITIONED BY (part)",
            place(to)
        )
    };
    told(&ches(&llama, &copy("here")).output().unwrap());
    told(&cluster.client(&llama, &copy("there")).output().unwrap());
    let written = |to: &str| {
        let manifest = place(&format!("{to}.ches-manifest.json"));
        rows(&place(to), Some(&manifest), &[])
    };
    assert_eq!(written("here"), written("there"));
    let manifest = |to: &str| -> serde_json::Value {
        let manifest = std::fs::read(place(&format!("{to}.ches-manifest.json")));
        serde_json::from_slice(&manifest.unwrap()).unwrap()
    };
    let (here, there) = (manifest("here"), manifest("there"));
    assert_eq!(here["settings"], there["settings"]);
    assert_eq!(there["settings"]["ches.max_length"], "60");
    let mut provenance = here["provenance"].clone();
    assert!(provenance["ches.model"].is_string());
    // Each executor chooses the type for its device.
    provenance.as_object_mut().unwrap().remove("ches.dtype");
    assert_eq!(provenance, there["provenance"]);
    drop(executors);
}

#[test]
fn an_executor_that_is_killed_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = make_real_pairs(folder.path());
    let llama = model("gguf/llama.gguf");
    let sql = format!(
        "SELECT id, ches_normalized(prompt, chosen, rejected) AS s FROM '{pairs}' ORDER BY id"
    );
    let here = told(&ches(&llama, &sql).output().unwrap());
    assert_eq!(here.lines().count(), 1 + REAL_ROWS);
    let scored = here.lines().filter(|line| !line.ends_with(',')).count();
    assert!(scored > REAL_ROWS / 2, "{scored} rows are scored");
    let cluster = Cluster::start();
    let (first, second) = (cluster.executor(), cluster.executor());
    let third = cluster.executor();
    let scores = folder.path().join("scores");
    let mut client = cluster.client(&llama, &sql);
    client.args(["--set", &format!("ches.cache={}", scores.display())]);
    let client = client.spawn().unwrap();
    // It writes more than a pipe holds.
    let client = std::thread::spawn(move || client.wait_with_output().unwrap());
    let began = Instant::now();
    while files(&scores).len() < 3 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "nothing is computed"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!client.is_finished());
    drop(first);
    let fourth = cluster.executor();
    let there = told(&client.join().unwrap());
    assert!(here == there, "the results differ");
    drop((second, third, fourth));
}

#[test]
fn errors_are_what_an_executor_said() {
    let cluster = Cluster::start();
    let executor = cluster.executor();
    let folder = tempfile::tempdir().unwrap();
    let pairs = folder.path().join("pairs.parquet");
    let llama = model("gguf/llama.gguf");
    let sql = format!(
        "COPY (SELECT 'a' AS prompt, 'b' AS chosen, 'c' AS rejected) TO '{}'",
        pairs.display()
    );
    told(&ches(&llama, &sql).output().unwrap());
    let error = |sql: &str| {
        let output = cluster.client(&llama, sql).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let score = format!(
        "SELECT ches(prompt, chosen, rejected) FROM '{}'",
        pairs.display()
    );
    let said = error(&format!(
        "SET ches.prompt_format = 'chat'; SET ches.chat_template = '{{{{ raise_exception(\"no \" }}}}'; {score}"
    ));
    assert!(
        said.starts_with("Error: ches.chat_template: ") && said.contains("on the cluster"),
        "{said}"
    );
    let said = error("CREATE TABLE here AS VALUES (1); SELECT * FROM here");
    assert!(
        said.contains("known to this process alone")
            && said.contains("accepted: tables over files"),
        "{said}"
    );
    drop(executor);
}

#[test]
fn nobody_is_waited_for_in_vain() {
    let nobody = format!("df://127.0.0.1:{}", free_port());
    let mut client = ches(&model("gguf/llama.gguf"), "SELECT 1");
    let output = client.args(["--cluster", &nobody]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let expected = format!("no scheduler at {nobody}: Connection refused");
    assert!(said.contains(&expected), "{said}");
    let mut executor = Command::new(env!("CARGO_BIN_EXE_ches"));
    let began = Instant::now();
    let output = executor
        .args(["executor", "--model", &model("gguf/llama.gguf")])
        .args(["--scheduler", &nobody])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(&expected),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}
