//! The house keeps its plan: which room knows which, no two files that import each other, and no file
//! that is too long to read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::root;

/// No file has more lines.
const MOST_LINES: usize = 700;

/// The rooms of a crate, each with those that it may import.
type Plan = &'static [(&'static str, &'static [&'static str])];

/// `src/`.
const MODEL_SIDE: Plan = &[
    ("files", &[]),
    ("texts", &["files"]),
    ("decoder", &[]),
    ("models", &["files", "texts", "decoder"]),
    ("engine", &["files", "texts", "decoder", "models"]),
    (
        "scoring",
        &["files", "texts", "decoder", "models", "engine"],
    ),
    (
        "plugin",
        &["files", "texts", "decoder", "models", "engine", "scoring"],
    ),
    // A crate of its own, which has the others as `datafusion_ches`.
    ("cli", &[]),
];

/// `udfs/src/`; all that has no name here is below them.
const SQL_SIDE: Plan = &[
    ("calls", &[]),
    ("functions", &["calls"]),
    ("pair_reader", &["calls"]),
    ("score_exec", &["calls"]),
    ("optimizer", &["calls"]),
    (
        "extension",
        &["calls", "functions", "optimizer", "score_exec"],
    ),
];

/// The files of a crate by their modules, such as `files::gguf::header`.
struct House {
    modules: BTreeMap<Vec<String>, String>,
}

impl House {
    fn read(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let pattern = source.join("**/*.rs");
        for file in glob::glob(pattern.to_str().unwrap()).unwrap() {
            let file = file.unwrap();
            let inner = file.strip_prefix(source).unwrap().with_extension("");
            let mut module: Vec<String> = inner
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            if ["lib", "main"]
                .map(|name| vec![name.to_owned()])
                .contains(&module)
            {
                continue;
            }
            modules.insert(module, std::fs::read_to_string(&file).unwrap());
        }
        assert!(!modules.is_empty(), "{}", source.display());
        Self { modules }
    }

    /// The modules that one imports, each with the path that says so. A path into the crate's root gives
    /// an empty module.
    fn imports(&self, module: &[String]) -> BTreeMap<Vec<String>, String> {
        let is_child = |name: &str| {
            let child = [module, &[name.to_owned()]].concat();
            self.modules.contains_key(&child)
        };
        let mut found = BTreeMap::new();
        for path in paths(&self.modules[module]) {
            let segments: Vec<String> = path.split("::").map(str::to_owned).collect();
            let absolute = match segments[0].as_str() {
                "crate" => segments[1..].to_vec(),
                "super" => {
                    let ups = segments.iter().take_while(|part| *part == "super").count();
                    let kept = module.len().saturating_sub(ups);
                    [&module[..kept], &segments[ups..]].concat()
                }
                "self" => [module, &segments[1..]].concat(),
                child if is_child(child) => [module, &segments].concat(),
                _ => continue,
            };
            let known = (0..=absolute.len())
                .rev()
                .map(|length| &absolute[..length])
                .find(|part| part.is_empty() || self.modules.contains_key(*part));
            let known = known.unwrap().to_vec();
            // What a folder's mod.rs has is for what is in the folder.
            let is_own_folder = !known.is_empty() && module.starts_with(&known);
            if !is_own_folder {
                found.insert(known, path);
            }
        }
        found
    }

    /// What is against the plan.
    fn violations(&self, plan: Plan) -> Vec<String> {
        let named = |room: &str| plan.iter().any(|(name, _)| *name == room);
        let mut violations = Vec::new();
        for module in self.modules.keys() {
            let name = module.join("::");
            let lines = self.modules[module].lines().count();
            if lines > MOST_LINES {
                violations.push(format!("{name} has {lines} lines"));
            }
            for (imported, path) in self.imports(module) {
                let Some(room) = imported.first() else {
                    violations.push(format!("{name} imports {path} from the crate's root"));
                    continue;
                };
                let own = &module[0];
                let allowed = plan.iter().find(|(name, _)| name == own);
                let allowed = allowed.map_or(&[][..], |(_, allowed)| allowed);
                if room != own && named(room) && !allowed.contains(&room.as_str()) {
                    violations.push(format!("{name} imports {path}, against the order of rooms"));
                }
            }
        }
        violations.extend(self.circles());
        violations
    }

    /// Imports of what imports the importer, itself or by way of others.
    fn circles(&self) -> Vec<String> {
        let imports: BTreeMap<&Vec<String>, BTreeMap<Vec<String>, String>> = self
            .modules
            .keys()
            .map(|module| (module, self.imports(module)))
            .collect();
        let reaches = |from: &Vec<String>, to: &Vec<String>| {
            let mut reached: BTreeSet<&Vec<String>> = BTreeSet::new();
            let mut waiting = vec![from];
            while let Some(next) = waiting.pop() {
                if next == to {
                    return true;
                }
                if let Some(imported) = imports.get(next)
                    && reached.insert(next)
                {
                    waiting.extend(imported.keys());
                }
            }
            false
        };
        let mut circles = Vec::new();
        for (module, imported) in &imports {
            for (other, path) in imported {
                if reaches(other, module) {
                    let (name, other) = (module.join("::"), other.join("::"));
                    circles.push(format!("{name} imports {path}, and {other} reaches {name}"));
                }
            }
        }
        circles
    }
}

/// The paths of a file that begin in its crate or in a module beside it, those of `use` taken apart. Tests in
/// the file are left out.
fn paths(source: &str) -> Vec<String> {
    let code: Vec<&str> = source
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n").replace("pub(in crate::", "pub(in ");
    let mut found = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("::") {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let begin = rest[..at]
            .rfind(|c| !is_part(c))
            .map_or(0, |before| before + 1);
        let path = &rest[begin..];
        let end = path.find(|c| !is_part(c)).unwrap_or(path.len());
        let (head, after) = path.split_at(end);
        if head.ends_with("::") && after.starts_with('{') {
            expand(head, after, &mut found);
        } else {
            found.push(head.trim_end_matches("::").to_owned());
        }
        rest = &path[end..];
    }
    found
}

/// `head{…}`, an item of the braces at a time.
fn expand(head: &str, braces: &str, found: &mut Vec<String>) {
    let mut depth = 0;
    let mut item = String::new();
    for c in braces.chars() {
        match c {
            '{' if depth == 0 => {}
            '{' => item.push(c),
            '}' if depth == 1 => {}
            '}' => item.push(c),
            ',' if depth == 1 => {}
            _ => item.push(c),
        }
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if (c == ',' && depth == 1) || depth == 0 {
            let one = item.trim();
            match one.split_once('{') {
                Some((inner, _)) => {
                    let inner_braces = &one[inner.len()..];
                    expand(&format!("{head}{inner}"), inner_braces, found);
                }
                None if !one.is_empty() => {
                    let name = one.split(" as ").next().unwrap_or(one);
                    found.push(
                        format!("{head}{name}")
                            .trim_end_matches("::self")
                            .to_owned(),
                    );
                }
                None => {}
            }
            item.clear();
        }
        if depth == 0 {
            return;
        }
    }
}

#[test]
fn each_room_knows_only_those_before_it() {
    let model_side = House::read(&root().join("src")).violations(MODEL_SIDE);
    let sql_side = House::read(&root().join("udfs/src")).violations(SQL_SIDE);
    let python = House::read(&root().join("python/src")).violations(&[]);
    let violations = [model_side, sql_side, python].concat();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn only_three_files_stand_in_the_hall() {
    let files = std::fs::read_dir(root().join("src")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = names.filter(|name| name.ends_with(".rs")).collect();
    assert_eq!(
        files,
        ["lib.rs", "main.rs", "plugin.rs"].map(str::to_owned).into()
    );
}

#[test]
fn what_is_against_the_plan_is_found() {
    let house = |added: &[(&str, &str)]| {
        let mut house = House::read(&root().join("src"));
        for (module, line) in added {
            let module: Vec<String> = module.split("::").map(str::to_owned).collect();
            house.modules.get_mut(&module).unwrap().insert_str(0, line);
        }
        house.violations(MODEL_SIDE)
    };
    assert!(house(&[]).is_empty());
    for (module, line, said) in [
        (
            "files::memory",
            "use crate::texts::format;\n",
            "files::memory imports crate::texts::format, against",
        ),
        (
            "texts::format",
            "use crate::{decoder::config, files};\n",
            "texts::format imports crate::decoder::config, against",
        ),
        (
            "models::group",
            "use crate::Ches;\n",
            "models::group imports crate::Ches from the crate's root",
        ),
        (
            "files::error",
            "use super::gguf::Gguf;\n",
            "files::error imports super::gguf::Gguf, and",
        ),
        (
            "texts::jinja::value",
            "fn f() { super::lookup::item() }\n",
            "texts::jinja::value imports super::lookup::item, and",
        ),
    ] {
        let found = house(&[(module, line)]);
        assert!(
            found.iter().any(|one| one.starts_with(said)),
            "{said}\n{found:#?}"
        );
    }
    let long = "\n".repeat(MOST_LINES);
    let found = house(&[("files::memory", &long)]);
    assert!(found[0].starts_with("files::memory has"), "{found:?}");
}
