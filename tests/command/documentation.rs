//! What README.md and the pages of docs show, run: every block of SQL, and of shell but for `make`
//! and `cargo`, which CI runs, and for what needs an account or a GPU. What functions and settings say of
//! themselves is what their pages say.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{model, root};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ExtensionOptions;
use datafusion::logical_expr::ScalarUDF;
use datafusion_ches::ches_udfs::SessionExtension;
use datafusion_ches::{Ches, ChesSettings};
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

/// The pages of docs, in the order of their names.
fn pages() -> Vec<String> {
    let pattern = root().join("docs/**/*.md");
    let files = glob::glob(pattern.to_str().unwrap()).unwrap();
    let page = |file: PathBuf| {
        let page = file.strip_prefix(root()).unwrap();
        page.to_str().unwrap().to_owned()
    };
    files.map(|file| page(file.unwrap())).collect()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

#[test]
fn every_block_of_shell_runs() {
    let mut servers = Servers::default();
    let mut ran = 0;
    for page in [vec!["README.md".to_owned()], pages()].concat() {
        let folder = folder();
        std::fs::write(folder.path().join("filter.sql"), "SELECT 1;").unwrap();
        for block in blocks(&read(&page), "sh") {
            if ["make", "cargo", "# needs "]
                .iter()
                .any(|other| block.starts_with(other))
            {
                continue;
            }
            ran += 1;
            match block.split(' ').nth(1) {
                Some("scheduler") => servers.start(folder.path(), &block, 50050),
                Some("executor") => servers.start(folder.path(), &block, 50052),
                _ => drop(run(folder.path(), "sh", &["-ec", &block])),
            }
        }
    }
    assert!(ran >= 7, "{ran}");
    assert_eq!(servers.0.len(), 2);
}

#[test]
fn every_page_gives_what_it_shows() {
    let pages = [vec!["README.md".to_owned()], pages()].concat();
    let compared: Vec<(String, usize)> = pages
        .into_iter()
        .map(|page| {
            let compared = compare_page(&page);
            (page, compared)
        })
        .collect();
    for (page, compared) in &compared {
        let function = page.strip_prefix("docs/functions/");
        if function.is_some_and(|page| page != "README.md") {
            assert!(*compared > 0, "{page} shows no result");
        }
    }
    let of = |name: &str| compared.iter().find(|(page, _)| page == name).unwrap().1;
    assert!(of("docs/recipes.md") >= 8 && of("docs/displacement.md") == 2 && of("README.md") == 1);
}

/// Runs the SQL of a page, and compares what it gives with what is shown right below it; tells of how many.
fn compare_page(page: &str) -> usize {
    let folder = folder();
    // One process for all of them: later blocks read the tables of earlier ones.
    let mark = "SELECT 'end of a block' AS mark;";
    let mut script = String::new();
    let mut shown: Vec<Option<String>> = Vec::new();
    let mut is_after_sql = false;
    for (language, block) in all_blocks(&read(page)) {
        if language == "sql" {
            script.push_str(&format!("{block}\n{mark}\n"));
            shown.push(None);
        } else if language == "text" && is_after_sql {
            *shown.last_mut().unwrap() = Some(block);
        }
        is_after_sql = language == "sql";
    }
    if shown.is_empty() {
        return 0;
    }
    std::fs::write(folder.path().join("page.sql"), script).unwrap();
    let arguments = ["--model", "model.gguf", "-q", "-f", "page.sql"];
    let out = run(folder.path(), "ches", &arguments);
    let results: Vec<&str> = out.split("| end of a block |").collect();
    assert_eq!(results.len(), shown.len() + 1, "{page}");
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

/// Replaces what stands between two marks of a page by what it should be; with `CHES_UPDATE_PAGES` set in the
/// file, and otherwise only where the page has it already.
fn assert_generated(page: &str, begin: &str, end: &str, wanted: &str) {
    let text = read(page);
    let (before, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("{page}: no {begin}"));
    let (found, after) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("{page}: no {end}"));
    let wanted = format!("\n\n{}\n\n", wanted.trim());
    if std::env::var_os("CHES_UPDATE_PAGES").is_some() {
        let text = format!("{before}{begin}{wanted}{end}{after}");
        std::fs::write(root().join(page), text).unwrap();
        return;
    }
    assert_eq!(found, wanted, "{page}; CHES_UPDATE_PAGES=1 writes it");
}

/// A type as pages show it.
fn shown_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(fields) => {
            let field = |name: &str, of: &DataType| format!("`{name}` {}", shown_type(of));
            let fields: Vec<_> = fields
                .iter()
                .map(|one| field(one.name(), one.data_type()))
                .collect();
            format!("Struct of {}", fields.join(", "))
        }
        DataType::List(item) => format!("List of {}", shown_type(item.data_type())),
        other => other.to_string(),
    }
}

/// What a function says of itself.
fn head(function: &ScalarUDF) -> String {
    let said = function.documentation().unwrap();
    let arguments = said.arguments.as_deref().unwrap();
    let types = match function.name().contains("from_embeddings") {
        false => vec![DataType::Utf8; arguments.len()],
        true => {
            let extension = SessionExtension::new(Ches::new().scorer());
            let embedding = function_named(&extension, "response_embedding");
            let embedding = embedding.return_type(&[DataType::Utf8, DataType::Utf8]);
            vec![embedding.unwrap(); arguments.len()]
        }
    };
    let returned = function.return_type(&types).unwrap();
    let syntax = [
        Some(&said.syntax_example),
        said.alternative_syntax.as_ref().and_then(|all| all.first()),
    ];
    let syntax: Vec<_> = syntax
        .into_iter()
        .flatten()
        .map(|syntax| format!("`{syntax}`"))
        .collect();
    let mut head = format!(
        "{}\n\n| | |\n|---|---|\n",
        said.description.replace('<', "\\<")
    );
    head.push_str(&format!("| syntax | {} |\n", syntax.join(", ")));
    let aliases: Vec<_> = function
        .aliases()
        .iter()
        .map(|alias| format!("`{alias}`"))
        .collect();
    if !aliases.is_empty() {
        head.push_str(&format!("| alias | {} |\n", aliases.join(", ")));
    }
    for (name, meaning) in arguments {
        head.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    head.push_str(&format!("| result | {} |\n", shown_type(&returned)));
    head
}

fn function_named<'a>(extension: &'a SessionExtension, name: &str) -> &'a ScalarUDF {
    let found = extension
        .functions
        .iter()
        .find(|function| function.name() == name);
    found.unwrap()
}

#[test]
fn every_function_has_a_page_that_says_what_it_says() {
    let extension = SessionExtension::new(Ches::new().scorer());
    let list = read("docs/functions/README.md");
    let mut expected = vec!["docs/functions/README.md".to_owned()];
    for function in &extension.functions {
        let page = format!("docs/functions/{}.md", function.name());
        let marks = ["<!-- generated: head -->", "<!-- end of head -->"];
        assert_generated(&page, marks[0], marks[1], &head(function));
        assert!(
            list.contains(&format!("]({}.md)", function.name())),
            "{page}"
        );
        expected.push(page);
    }
    let mut pages = pages();
    pages.retain(|page| page.starts_with("docs/functions/"));
    expected.sort();
    pages.sort();
    assert_eq!(pages, expected);
}

#[test]
fn the_page_of_settings_lists_them_all() {
    let mut table = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for entry in ChesSettings::default().entries() {
        let default = match entry.value.as_deref() {
            None | Some("") => "none".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let row = format!("| `{}` | {default} | {} |\n", entry.key, entry.description);
        table.push_str(&row);
    }
    let marks = ["<!-- generated: settings -->", "<!-- end of settings -->"];
    assert_generated("docs/settings.md", marks[0], marks[1], &table);
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let slug = |heading: &str| -> String {
        let kept = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => c.to_lowercase().next(),
            _ => None,
        });
        kept.collect()
    };
    let anchors = |text: &str| -> Vec<String> {
        let mut is_code = false;
        let headings = text.lines().filter(|line| {
            is_code ^= line.starts_with("```");
            !is_code && line.starts_with('#')
        });
        let mut anchors: Vec<_> = headings
            .map(|line| slug(line.trim_start_matches('#').trim()))
            .collect();
        anchors.extend(
            text.split("<a id=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
        anchors
    };
    let tops = [
        "README.md",
        "CONTRIBUTING.md",
        "BENCHMARKS.md",
        "CHANGELOG.md",
    ];
    let all = [tops.map(str::to_owned).to_vec(), pages()].concat();
    let mut checked = 0;
    for page in &all {
        let text = read(page);
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let of_page = root().join(page);
            let place = match file {
                "" => of_page.clone(),
                file => of_page.parent().unwrap().join(file),
            };
            assert!(place.exists(), "{page}: {target} is not there");
            if !anchor.is_empty() {
                let there = anchors(&std::fs::read_to_string(&place).unwrap());
                assert!(
                    there.iter().any(|one| one == anchor),
                    "{page}: no {target} in {there:?}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
    let summary = read("docs/SUMMARY.md");
    for page in pages() {
        let name = page.strip_prefix("docs/").unwrap();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("]({name})")),
            "{name} is not in SUMMARY.md"
        );
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines");
}
