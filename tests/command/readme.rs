//! What README.md and the pages of docs show, run: every block of SQL, and of shell but for `make`
//! and `cargo`, which CI runs, and for what needs an account or a GPU.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{model, root};
use tempfile::TempDir;

/// Every block with its language, in order.
fn all_blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language.to_owned(), block.join("\n")));
        }
    }
    blocks
}

/// The blocks of a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let blocks = all_blocks(page).into_iter();
    blocks
        .filter(|(of, _)| of == language)
        .map(|(_, block)| block)
        .collect()
}

/// A folder with what the pages call `model.gguf` and `pairs.parquet`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let link = |to: PathBuf, name: &str| {
        std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
    };
    link(model().into(), "model.gguf");
    link(model().into(), "tuned.gguf");
    link(
        root().join("examples/data/preferences.parquet"),
        "pairs.parquet",
    );
    let lines = root().join("examples/data/preferences.jsonl");
    link(lines.clone(), "pairs.jsonl");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    link(lines, "data/pairs.jsonl");
    folder
}

/// The cells of the rows of a printed table, the head first.
fn cells(table: &str) -> Vec<Vec<String>> {
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str| {
        let inner = row.trim_matches('|').split('|');
        inner.map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// Panics unless two tables are the same, numbers to the digits shown.
fn assert_same(found: &str, shown: &str) {
    let (found, shown) = (cells(found), cells(shown));
    let agrees = |found: &String, shown: &String| {
        let digits = shown.split_once('.').map(|(_, digits)| digits);
        match (found.parse::<f64>(), shown.parse::<f64>()) {
            (Ok(found), Ok(shown)) => {
                let bound = match digits {
                    None => 0.0,
                    // Rounded to a whole number, and to the next one by another processor.
                    Some("0") if shown.abs() >= 100.0 => 1.01,
                    Some(digits) => 1.01 * 10f64.powi(-(digits.len() as i32)),
                };
                (found - shown).abs() <= bound
            }
            _ => found == shown,
        }
    };
    let same_rows = found.len() == shown.len();
    let same = found.iter().zip(&shown).all(|(found, shown)| {
        found.len() == shown.len() && found.iter().zip(shown).all(|(f, s)| agrees(f, s))
    });
    assert!(
        same && same_rows && !shown.is_empty(),
        "found {found:#?}\nshown {shown:#?}"
    );
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let ches = Path::new(env!("CARGO_BIN_EXE_ches")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", ches.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}\n{out}\n{error}");
    out
}

/// What the page starts and lets run.
#[derive(Default)]
struct Servers(Vec<Child>);

impl Servers {
    /// Returns when it can be connected to.
    fn start(&mut self, folder: &Path, line: &str, port: u16) {
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("ches"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
        let command = command
            .args(words)
            .current_dir(folder)
            .stderr(Stdio::null());
        self.0.push(command.spawn().unwrap());
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "{line}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[test]
fn every_block_runs() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let folder = folder();
    std::fs::write(folder.path().join("filter.sql"), "SELECT 1;").unwrap();

    let sql = blocks(&readme, "sql");
    let mut results = Vec::new();
    for block in &sql {
        let arguments = ["--model", "model.gguf", "-q", "-c", block];
        results.push(run(folder.path(), "ches", &arguments));
    }
    assert_same(&results[0], &blocks(&readme, "text")[0]);

    let shell: Vec<_> = blocks(&readme, "sh")
        .into_iter()
        .filter(|block| !block.starts_with("make") && !block.starts_with("cargo"))
        .filter(|block| !block.starts_with("# needs "))
        .collect();
    assert!(sql.len() >= 5 && !shell.is_empty());
    let mut servers = Servers::default();
    for block in &shell {
        match block.split(' ').nth(1) {
            Some("scheduler") => servers.start(folder.path(), block, 50050),
            Some("executor") => servers.start(folder.path(), block, 50052),
            _ => drop(run(folder.path(), "sh", &["-ec", block])),
        }
    }
    assert_eq!(servers.0.len(), 2);
}

#[test]
fn every_recipe_gives_what_it_shows() {
    let compared = compare_page("docs/recipes.md");
    assert!(compared >= 8, "{compared} recipes show a result");
}

#[test]
fn predictions_are_what_their_page_shows() {
    assert_eq!(compare_page("docs/displacement.md"), 2);
}

/// Runs the SQL of a page, and compares what it gives with what is shown; tells of how many.
fn compare_page(page: &str) -> usize {
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    let folder = folder();
    // One process for all of them: later recipes read the tables of earlier ones.
    let mark = "SELECT 'end of a block' AS mark;";
    let mut script = String::new();
    let mut shown: Vec<Option<String>> = Vec::new();
    for (language, block) in all_blocks(&page) {
        match language.as_str() {
            "sql" => {
                script.push_str(&format!("{block}\n{mark}\n"));
                shown.push(None);
            }
            "text" => *shown.last_mut().unwrap() = Some(block),
            _ => {}
        }
    }
    std::fs::write(folder.path().join("page.sql"), script).unwrap();
    let arguments = ["--model", "model.gguf", "-q", "-f", "page.sql"];
    let out = run(folder.path(), "ches", &arguments);
    let results: Vec<&str> = out.split("| end of a block |").collect();
    assert_eq!(results.len(), shown.len() + 1);
    let mut compared = 0;
    for (result, shown) in results.iter().zip(&shown) {
        let Some(shown) = shown else { continue };
        // Without what is left of the marks around it.
        let result = result.replace("| mark           |", "");
        assert_same(&result, shown);
        compared += 1;
    }
    compared
}
