//! The files of a place.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::{plan_datafusion_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::formats::{Format, READABLE, is_beside_data};
use super::location::Location;

/// How alike a name must be to be meant instead, from 0 to 1.
const ALIKE: f64 = 0.6;

/// Names that are compared with one that is not there.
const MAX_COMPARED: usize = 10_000;

/// Begins the paths of a Delta table's log.
const DELTA: &str = "_delta_log/";

/// Hive's name of a folder for NULL.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Files of one format.
#[derive(Debug)]
pub(super) struct Files {
    pub format: Format,
    /// In the order of their names. Empty ones are left out where there are others.
    pub files: Vec<File>,
    /// The columns that the names of folders give (`lang=en`).
    pub columns: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub meta: ObjectMeta,
    /// Its values of the columns that folders give.
    pub values: Vec<Option<String>>,
}

/// The files of a place.
///
/// # Errors
/// When there are none that can be read, or of several formats; the message tells what is there.
pub(super) async fn list(
    store: &Arc<dyn ObjectStore>,
    place: &Location,
    is_known: impl Fn(&str) -> bool,
) -> Result<Files> {
    let written = &place.written;
    let unreadable = |name: &str| {
        plan_datafusion_err!(
            "'{written}': {name} is not told by its name to hold a table; readable: {READABLE}"
        )
    };
    if place.patterns.is_none()
        && let Some(meta) = file(store, place).await?
    {
        let name = meta.location.filename().unwrap_or_default();
        let format = Format::of_name(name, is_known).ok_or_else(|| unreadable("it"))?;
        return Ok(Files {
            format,
            files: vec![File {
                meta,
                values: vec![],
            }],
            columns: vec![],
        });
    }
    let mut found = 0;
    let mut others = None;
    let mut files = Vec::new();
    let mut listed = store.list(Some(&place.base));
    let failed = |error: object_store::Error| not_listed(place, &error);
    while let Some(meta) = listed.try_next().await.map_err(failed)? {
        let Some(path) = within(&place.base, &meta.location) else {
            continue;
        };
        let is_meant = place.patterns.as_ref();
        if is_meant.is_some_and(|patterns| !patterns.matches(&path)) {
            continue;
        }
        if place.patterns.is_none() && path.starts_with(DELTA) {
            return plan_err!(
                "'{written}' is a Delta table, and not all rows of its files are its own; accepted: the command with \
                 the feature delta"
            );
        }
        found += 1;
        let name = meta.location.filename().unwrap_or_default();
        match Format::of_name(name, &is_known).is_some() && !is_beside_data(&path) {
            true => files.push(meta),
            false => others = Some(path),
        }
    }
    drop(listed);
    if files.is_empty() {
        return Err(match others {
            Some(path) if found == 1 => unreadable(&format!("'{path}', its only file,")),
            Some(path) => unreadable(&format!("none of its {found} files ('{path}', …)")),
            None if place.patterns.is_some() => {
                plan_datafusion_err!("'{written}': no file has such a name")
            }
            None => absent(store, place).await,
        });
    }
    of_one_format(place, files, is_known)
}

/// Files of a place, if they are of one format, and what the names of their folders say.
///
/// # Errors
/// When they are of several formats, or their folders give different columns.
pub(super) fn of_one_format(
    place: &Location,
    found: Vec<ObjectMeta>,
    is_known: impl Fn(&str) -> bool,
) -> Result<Files> {
    let written = &place.written;
    let mut formats: BTreeMap<String, (Format, Vec<ObjectMeta>)> = BTreeMap::new();
    for meta in found {
        let name = meta.location.filename().unwrap_or_default();
        if let Some(format) = Format::of_name(name, &is_known) {
            let of_format = formats.entry(format.to_string());
            let (_, files) = of_format.or_insert_with(|| (format, vec![]));
            files.push(meta);
        }
    }
    if formats.len() > 1 {
        let listed = formats
            .iter()
            .map(|(name, (_, files))| format!("{} {name}", files.len()));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let one = formats.keys().next().map_or("", String::as_str);
        let folder = written.trim_end_matches('/');
        let pattern = match place.patterns {
            Some(_) => String::new(),
            None => format!(", such as '{folder}/**/*{one}'"),
        };
        return plan_err!(
            "'{written}' has files of several formats: {listed}; accepted: one of them{pattern}"
        );
    }
    let Some((format, mut files)) = formats.into_values().next() else {
        return plan_err!("'{written}': no file can be read");
    };
    files.sort_by(|a, b| a.location.cmp(&b.location));
    if files.iter().any(|file| file.size > 0) {
        files.retain(|file| file.size > 0);
    }
    let mut columns = None;
    let mut with_values = Vec::with_capacity(files.len());
    for meta in files {
        let (names, values): (Vec<_>, Vec<_>) =
            hive(&place.base, &meta.location).into_iter().unzip();
        match &columns {
            None => columns = Some(names),
            Some(known) if *known == names => {}
            Some(known) => {
                let shown = |names: &[String]| match names {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                };
                return plan_err!(
                    "'{written}': the folders of its files give different columns: {} and, of {}, {}",
                    shown(known),
                    meta.location,
                    shown(&names)
                );
            }
        }
        with_values.push(File { meta, values });
    }
    Ok(Files {
        format,
        files: with_values,
        columns: columns.unwrap_or_default(),
    })
}

/// The file at a place, if a file is there.
async fn file(store: &Arc<dyn ObjectStore>, place: &Location) -> Result<Option<ObjectMeta>> {
    if place.is_folder() || place.base.as_ref().is_empty() {
        return Ok(None);
    }
    if let Some(local) = &place.local
        && !local.is_file()
    {
        return Ok(None);
    }
    match store.head(&place.base).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(not_listed(place, &error)),
    }
}

fn not_listed(place: &Location, error: &object_store::Error) -> DataFusionError {
    // Without the kind, where a store says all itself.
    match error {
        object_store::Error::Generic { source, .. } => {
            plan_datafusion_err!("'{}': {source}", place.written)
        }
        other => plan_datafusion_err!("'{}': {other}", place.written),
    }
}

/// The path of a file from a folder on, with slashes.
pub(super) fn within(folder: &Path, file: &Path) -> Option<String> {
    let parts = file.prefix_match(folder)?;
    let parts = parts.map(|part| part.as_ref().to_owned());
    let path = parts.collect::<Vec<_>>().join("/");
    (!path.is_empty()).then_some(path)
}

/// The columns of `name=value` folders between a folder and a file.
fn hive(folder: &Path, file: &Path) -> Vec<(String, Option<String>)> {
    let parts: Vec<PathPart<'_>> = file.prefix_match(folder).into_iter().flatten().collect();
    let (_, folders) = parts.split_last().unzip();
    let folders: &[PathPart<'_>] = folders.unwrap_or_default();
    let column = |part: &PathPart<'_>| {
        let (name, value) = part.as_ref().split_once('=')?;
        let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        Some((
            name.to_owned(),
            (value != NULL).then(|| decoded.into_owned()),
        ))
    };
    folders.iter().filter_map(column).collect()
}

/// What is said of a place where nothing is.
async fn absent(store: &Arc<dyn ObjectStore>, place: &Location) -> DataFusionError {
    let written = &place.written;
    if place.local.as_ref().is_some_and(|local| local.is_dir()) {
        return plan_datafusion_err!("'{written}' is a folder without files");
    }
    plan_datafusion_err!(
        "'{written}': there is no such file or folder{}",
        nearest(store, place).await
    )
}

/// The nearest name in the same folder, as the end of a sentence.
async fn nearest(store: &Arc<dyn ObjectStore>, place: &Location) -> String {
    let Some(name) = place.base.filename() else {
        return String::new();
    };
    let Ok(found) = store.list_with_delimiter(Some(&parent(&place.base))).await else {
        return String::new();
    };
    let files = found
        .objects
        .iter()
        .filter_map(|file| file.location.filename());
    let folders = found.common_prefixes.iter().filter_map(Path::filename);
    let alike = |other: &str| {
        rapidfuzz::distance::osa::normalized_similarity(
            other.to_lowercase().chars(),
            name.to_lowercase().chars(),
        )
    };
    let best = files
        .chain(folders)
        .take(MAX_COMPARED)
        .map(|name| (alike(name), name))
        .filter(|(similarity, _)| *similarity >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
    match best {
        Some((_, name)) => format!("; the nearest name there is '{name}'"),
        None => String::new(),
    }
}

fn parent(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    let (_, parents) = parts.split_last().unzip();
    parents.unwrap_or_default().iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_folders() {
        let folder = Path::from("a");
        let file = Path::parse("a/lang=en/x/b=1%2F2/c=__HIVE_DEFAULT_PARTITION__/d=e.parquet");
        let found = hive(&folder, &file.unwrap());
        let expected = [("lang", Some("en")), ("b", Some("1/2")), ("c", None)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(found, expected);
    }
}
