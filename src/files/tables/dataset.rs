//! A whole data set of the Hub by its name: which files are its rows.
//!
//! As the library `datasets` finds them (`data_files.py`, `utils/metadata.py` of version 4): by `configs` in the
//! head of README.md, else by the names of splits in the names of files. What is not one configuration and one
//! split is an error that lists them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::{plan_datafusion_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt};
use yaml_rust2::parser::{Event, EventReceiver, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use super::formats::{Format, is_beside_data};
use super::listing::{Files, of_one_format, within};
use super::location::{Location, Patterns};

/// A longer README.md is not read.
const MAX_CARD: u64 = 8 << 20;

/// Names of splits, and what files of them are called.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// How many are listed.
const LISTED: usize = 30;

/// Whether a place is a whole data set.
pub(super) fn is_whole(place: &Location) -> bool {
    place.store.as_str() == "hf://datasets/"
        && place.patterns.is_none()
        && place.base.parts().count() == 2
}

/// The files of a data set of one configuration and one split.
///
/// # Errors
/// When it has several, or no files that can be read.
pub(super) async fn list(
    store: &Arc<dyn ObjectStore>,
    place: &Location,
    is_known: impl Fn(&str) -> bool,
) -> Result<Files> {
    let written = place.written.trim_end_matches('/');
    let refused = |reason: String| plan_datafusion_err!("'{written}': {reason}");
    let failed = |error: Error| match error {
        Error::Generic { source, .. } => refused(source.to_string()),
        other => refused(other.to_string()),
    };
    let listed: Vec<ObjectMeta> = store
        .list(Some(&place.base))
        .try_collect()
        .await
        .map_err(failed)?;
    let files = listed.into_iter().filter_map(|meta| {
        let path = within(&place.base, &meta.location)?;
        let is_data = Format::of_name(&path, &is_known).is_some() && !is_beside_data(&path);
        is_data.then_some((path, meta))
    });
    let files: BTreeMap<String, ObjectMeta> = files.collect();
    let card = card(store, place).await.map_err(failed)?;
    let configurations = configurations(&card).map_err(refused)?;
    let splits = match configurations.as_slice() {
        [] => by_names(files.keys(), ""),
        [one] => one.splits(&files).map_err(refused)?,
        several => {
            let example =
                |one: &Configuration| format!("{} ('{written}/{}')", one.name, one.example());
            let listed = several.iter().map(example);
            return plan_err!(
                "'{written}' has {} configurations: {}; accepted: the files of one",
                several.len(),
                some_of(listed)
            );
        }
    };
    if splits.len() > 1 {
        let listed = splits.iter().map(|(name, paths)| {
            let first = paths.first().map_or("", String::as_str);
            match paths.len() {
                1 => format!("{name} ('{written}/{first}')"),
                n => format!("{name} ({n} files, '{written}/{first}' the first)"),
            }
        });
        return plan_err!(
            "'{written}' has {} splits: {}; accepted: the files of one, by a pattern such as \
             '{written}/data/train-*.parquet'",
            splits.len(),
            some_of(listed)
        );
    }
    let paths: Vec<String> = splits.into_iter().flat_map(|(_, paths)| paths).collect();
    let chosen = files.into_iter().filter(|(path, _)| paths.contains(path));
    let chosen: Vec<_> = chosen.map(|(_, meta)| meta).collect();
    if chosen.is_empty() {
        return Err(refused("none of its files can be read as a table".into()));
    }
    of_one_format(place, chosen, is_known)
}

fn some_of(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    let more = match items.len() > LISTED {
        true => ", …",
        false => "",
    };
    format!("{}{more}", items[..items.len().min(LISTED)].join(", "))
}

/// The text of README.md; empty where there is none.
async fn card(store: &Arc<dyn ObjectStore>, place: &Location) -> object_store::Result<String> {
    match store.get(&place.base.clone().join("README.md")).await {
        Ok(found) if found.meta.size <= MAX_CARD => {
            let bytes = found.bytes().await?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Ok(_) | Err(Error::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// What a data set calls a configuration.
#[derive(Debug)]
struct Configuration {
    name: String,
    /// Before the patterns.
    folder: String,
    /// Patterns by split; None: by the names of files.
    patterns: Option<Vec<(String, Vec<String>)>>,
}

impl Configuration {
    fn example(&self) -> String {
        let patterns = self.patterns.iter().flatten();
        let first = patterns.flat_map(|(_, patterns)| patterns).next();
        let first = first.map_or("**", String::as_str);
        format!("{}{first}", self.folder)
    }

    /// The files of its splits.
    fn splits(
        &self,
        files: &BTreeMap<String, ObjectMeta>,
    ) -> Result<Vec<(String, Vec<String>)>, String> {
        let Some(by_split) = &self.patterns else {
            let of_folder = files.keys().filter(|path| path.starts_with(&self.folder));
            return Ok(by_names(of_folder, &self.folder));
        };
        let mut splits = Vec::new();
        for (name, patterns) in by_split {
            let mut paths = Vec::new();
            for pattern in patterns {
                let whole = format!("{}{pattern}", self.folder);
                let matching = Patterns::new(&whole)
                    .map_err(|error| format!("README.md, configs: {}", message(&error)))?;
                paths.extend(files.keys().filter(|path| matching.matches(path)).cloned());
            }
            paths.sort();
            paths.dedup();
            if paths.is_empty() {
                return Err(format!(
                    "README.md, configs: no file is called {}",
                    patterns.join(" or ")
                ));
            }
            splits.push((name.clone(), paths));
        }
        Ok(splits)
    }
}

fn message(error: &DataFusionError) -> String {
    error.message().into_owned()
}

/// Files by the splits that their names, from `folder` on, tell: those of shards, else of folders, else of files. What
/// tells none where others do is left out; where none does, all are `train`.
fn by_names<'a>(
    paths: impl Iterator<Item = &'a String>,
    folder: &str,
) -> Vec<(String, Vec<String>)> {
    let paths: Vec<&String> = paths.collect();
    let ways: [fn(&str) -> Option<String>; 4] =
        [of_shard, of_folder, of_file, |_| Some("train".into())];
    for way in ways {
        let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in &paths {
            if let Some(split) = way(&path[folder.len()..]) {
                splits.entry(split).or_default().push((*path).clone());
            }
        }
        if !splits.is_empty() {
            return splits.into_iter().collect();
        }
    }
    Vec::new()
}

/// `data/train_prefs-00000-of-00001.parquet`
fn of_shard(path: &str) -> Option<String> {
    let (before, after) = path.strip_prefix("data/")?.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let is_shard = number.len() == 5
        && number.bytes().all(|b| b.is_ascii_digit())
        && after.starts_with(|c: char| c.is_ascii_digit())
        && !split.contains('/');
    is_shard.then(|| split.to_owned())
}

/// `en/test/0000.csv`
fn of_folder(path: &str) -> Option<String> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').find_map(split_of)
}

/// `pairs-dev.jsonl`
fn of_file(path: &str) -> Option<String> {
    split_of(path.rsplit('/').next().unwrap_or(path))
}

/// The split that a name's words tell.
fn split_of(name: &str) -> Option<String> {
    let is_between = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
    let mut words = name.split(is_between);
    words.find_map(|word| {
        let split = SPLITS.iter().find(|(_, words)| words.contains(&word));
        split.map(|(split, _)| (*split).to_owned())
    })
}

/// What `configs` in the head of a README.md lists.
fn configurations(card: &str) -> Result<Vec<Configuration>, String> {
    let card = card.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let Some(rest) = card.strip_prefix("---\n") else {
        return Ok(vec![]);
    };
    let Some(end) = rest.find("\n---") else {
        return Ok(vec![]);
    };
    let head = &rest[..=end];
    let refused = |reason: &dyn std::fmt::Display| format!("the head of README.md: {reason}");
    // A few lines of them could stand for any amount of memory.
    let mut aliases = Aliases(false);
    let parsed = Parser::new_from_str(head).load(&mut aliases, true);
    parsed.map_err(|error| refused(&error))?;
    if aliases.0 {
        return Err(refused(&"it has aliases (*name)"));
    }
    let yaml = YamlLoader::load_from_str(head).map_err(|error| refused(&error))?;
    let Some(configs) = yaml.first().and_then(|head| head["configs"].as_vec()) else {
        return Ok(vec![]);
    };
    configs
        .iter()
        .map(|config| configuration(config).map_err(|reason| refused(&reason)))
        .collect()
}

fn configuration(yaml: &Yaml) -> Result<Configuration, String> {
    let name = yaml["config_name"].as_str().unwrap_or("default").to_owned();
    let unknown = |what: &str| {
        format!("configs, {name}: {what}; accepted: patterns, or a list of split and path")
    };
    let texts = |yaml: &Yaml| -> Option<Vec<String>> {
        match yaml {
            Yaml::String(one) => Some(vec![one.clone()]),
            Yaml::Array(several) => {
                let text = |one: &Yaml| one.as_str().map(str::to_owned);
                several.iter().map(text).collect()
            }
            _ => None,
        }
    };
    let patterns = match &yaml["data_files"] {
        Yaml::BadValue | Yaml::Null => None,
        Yaml::Array(items) if items.iter().any(|item| item.as_hash().is_some()) => {
            let split = |item: &Yaml| {
                let split = item["split"].as_str()?.to_owned();
                Some((split, texts(&item["path"])?))
            };
            let splits: Option<Vec<_>> = items.iter().map(split).collect();
            Some(splits.ok_or_else(|| unknown("data_files"))?)
        }
        Yaml::Hash(by_split) => {
            let split =
                |(split, paths): (&Yaml, &Yaml)| Some((split.as_str()?.to_owned(), texts(paths)?));
            let splits: Option<Vec<_>> = by_split.iter().map(split).collect();
            Some(splits.ok_or_else(|| unknown("data_files"))?)
        }
        other => {
            let patterns = texts(other).ok_or_else(|| unknown("data_files"))?;
            Some(vec![("train".to_owned(), patterns)])
        }
    };
    let folder = yaml["data_dir"].as_str().unwrap_or_default();
    let folder = folder.trim_start_matches("./").trim_matches('/');
    Ok(Configuration {
        name,
        folder: match folder {
            "" | "." => String::new(),
            folder => format!("{folder}/"),
        },
        patterns,
    })
}

/// Whether there are aliases.
struct Aliases(bool);

impl EventReceiver for Aliases {
    fn on_event(&mut self, event: Event) {
        self.0 |= matches!(event, Event::Alias(_));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_of_names() {
        let found = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
            let found = by_names(paths.iter(), "").into_iter();
            found
                .map(|(split, paths)| format!("{split}: {}", paths.join(", ")))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found(&[
                "data/train_prefs-00000-of-00001.parquet",
                "data/test-00000-of-00001-0a1b.parquet",
                "extra/train.parquet"
            ]),
            [
                "test: data/test-00000-of-00001-0a1b.parquet",
                "train_prefs: data/train_prefs-00000-of-00001.parquet"
            ]
        );
        assert_eq!(
            found(&["en/dev_1/0.csv", "training/test.csv", "other.csv"]),
            ["train: training/test.csv", "validation: en/dev_1/0.csv"]
        );
        assert_eq!(
            found(&["train.jsonl", "my-eval-set.jsonl", "contest.jsonl"]),
            ["test: my-eval-set.jsonl", "train: train.jsonl"]
        );
        assert_eq!(found(&["b.csv", "a.csv"]), ["train: b.csv, a.csv"]);
        assert_eq!(found(&[]), [""; 0]);
    }

    #[test]
    fn configurations_of_cards() {
        let found = |head: &str| {
            let found = configurations(&format!("---\n{head}\n---\n# Title\n")).unwrap();
            let one = |one: Configuration| (one.name, one.folder, one.patterns);
            found.into_iter().map(one).collect::<Vec<_>>()
        };
        let text = str::to_owned;
        assert_eq!(found("license: mit"), []);
        assert_eq!(
            found("configs:\n- config_name: a\n  data_dir: ./b/\n- data_files: '*.csv'"),
            [
                (text("a"), text("b/"), None),
                (
                    text("default"),
                    text(""),
                    Some(vec![(text("train"), vec![text("*.csv")])])
                )
            ]
        );
        let head = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - \
                    split: test\n    path:\n    - a.json\n    - b.json";
        let expected = vec![
            (text("train"), vec![text("data/train-*")]),
            (text("test"), vec![text("a.json"), text("b.json")]),
        ];
        assert_eq!(found(head), [(text("default"), text(""), Some(expected))]);
        for head in [
            "configs: [&a [b], *a]",
            "configs:\n- data_files: 5",
            "configs: [}",
        ] {
            let error = configurations(&format!("---\n{head}\n---\n")).unwrap_err();
            assert!(error.contains("the head of README.md"), "{error}");
        }
        assert!(configurations("# Title").unwrap().is_empty());
        assert!(configurations("---\nno end").unwrap().is_empty());
    }
}
