//! Which files hold tables, by their names.

use std::fmt;

use datafusion::common::parsers::CompressionTypeVariant;

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Apache Parquet.
    Parquet,
    /// The file or the stream form of Arrow's IPC.
    Arrow,
    /// Values with commas between them.
    Csv,
    /// Values with tabs between them.
    Tsv,
    /// Objects, one to a line or in one array.
    Json,
    /// Another format that the session knows, by its extension.
    Other(String),
}

/// How a file is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// The format of what is in it.
    pub kind: Kind,
    /// How that is compressed.
    pub compression: CompressionTypeVariant,
}

/// What is said of files that are none of these.
pub(super) const READABLE: &str = ".parquet, .arrow, .feather; .csv, .tsv, .json, .jsonl, .ndjson, each of these also with \
     .gz, .zst, .bz2 or .xz";

/// Files beside data that describe it.
const DESCRIPTIONS: [&str; 5] = [
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
];

impl Format {
    /// By the extensions of a name. `is_known`: whether the session knows another.
    pub fn of_name(name: &str, is_known: impl Fn(&str) -> bool) -> Option<Self> {
        let mut parts = name.rsplit('.').map(str::to_ascii_lowercase);
        let last = parts.next()?;
        let compression = match &last[..] {
            "gz" | "gzip" => CompressionTypeVariant::GZIP,
            "zst" | "zstd" => CompressionTypeVariant::ZSTD,
            "bz2" => CompressionTypeVariant::BZIP2,
            "xz" => CompressionTypeVariant::XZ,
            _ => CompressionTypeVariant::UNCOMPRESSED,
        };
        let extension = match compression.is_compressed() {
            true => parts.next()?,
            false => last,
        };
        // A name begins before its extensions.
        parts.next()?;
        let kind = match &extension[..] {
            "csv" => Kind::Csv,
            "tsv" => Kind::Tsv,
            "json" | "jsonl" | "ndjson" => Kind::Json,
            _ if compression.is_compressed() => return None,
            "parquet" => Kind::Parquet,
            "arrow" | "feather" | "ipc" => Kind::Arrow,
            _ if is_known(&extension) => Kind::Other(extension),
            _ => return None,
        };
        Some(Self { kind, compression })
    }
}

impl fmt::Display for Format {
    /// The extensions.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Parquet => "parquet",
            Kind::Arrow => "arrow",
            Kind::Csv => "csv",
            Kind::Tsv => "tsv",
            Kind::Json => "json",
            Kind::Other(extension) => extension,
        };
        write!(to, ".{kind}{}", self.compression_extension())
    }
}

impl Format {
    /// Whether the whole file is compressed.
    pub fn is_compressed(&self) -> bool {
        self.compression.is_compressed()
    }

    fn compression_extension(&self) -> &'static str {
        match self.compression {
            CompressionTypeVariant::GZIP => ".gz",
            CompressionTypeVariant::ZSTD => ".zst",
            CompressionTypeVariant::BZIP2 => ".bz2",
            CompressionTypeVariant::XZ => ".xz",
            _ => "",
        }
    }
}

/// Whether a file within a folder, by its path from there, is not of the folder's data: hidden by Unix's or Spark's
/// rule, or a description.
pub(super) fn is_beside_data(path: &str) -> bool {
    let is_hidden =
        |part: &str| part.starts_with('.') || part.starts_with('_') && !part.contains('=');
    let name = path.rsplit('/').next().unwrap_or(path);
    path.split('/').any(is_hidden) || DESCRIPTIONS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_name() {
        for (name, expected) in [
            ("a.parquet", Some(".parquet")),
            ("part-0-c000.snappy.parquet", Some(".parquet")),
            ("A.JSONL.GZ", Some(".json.gz")),
            ("a.ndjson.zst", Some(".json.zst")),
            ("a.tsv.bz2", Some(".tsv.bz2")),
            ("a.csv.xz", Some(".csv.xz")),
            ("a.feather", Some(".arrow")),
            ("a.avro", Some(".avro")),
            ("a.parquet.gz", None),
            ("a.gz", None),
            ("csv", None),
            ("README.md", None),
            ("_SUCCESS", None),
        ] {
            let found = Format::of_name(name, |extension| extension == "avro");
            let found = found.map(|format| format.to_string());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_stands_beside_data() {
        for path in [
            "_SUCCESS",
            ".part-0.parquet.crc",
            "_delta_log/0.json",
            ".git/x.json",
            "dataset_infos.json",
            "a/state.json",
        ] {
            assert!(is_beside_data(path), "{path}");
        }
        for path in [
            "a.json",
            "data/a.parquet",
            "_lang=en/a.json",
            "lang=_/a.json",
        ] {
            assert!(!is_beside_data(path), "{path}");
        }
    }
}
