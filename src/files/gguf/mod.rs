//! Reading GGUF model files, without trusting them.
//!
//! The format is ggml's (`docs/gguf.md` of the ggml repository), versions 2 and 3, little
//! endian. A header's counts and lengths are checked against the bytes that are there before
//! anything is allocated for them, so that a file can never ask for more memory than a small
//! multiple of its own size.
//!
//! A model may lie in several files, as `gguf-split` of llama.cpp names and numbers them; it is
//! opened by the name of any of them.

mod header;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::{QTensor, ggml_file};
use candle_core::{Device, Tensor};

use crate::files::error::ModelError;
use crate::files::mapped_file::MappedFile;
use crate::files::weights::{Stored, Target};
use header::{Header, TensorInfo};

pub use header::Value;

/// How many files a model has, which of them this is, from 0, and how many tensors all have.
const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// A tensor that a model consists of.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    shape: Vec<usize>,
    paired_rows: Option<usize>,
}

impl Part {
    /// A tensor that must have this shape.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            paired_rows: None,
        }
    }

    /// Says that the rows of each head lie as a rotation of adjacent pairs wants them (GGUF's
    /// llama files), and are to be read as one of a head's two halves does.
    pub fn with_paired_rows(mut self, head_dim: usize) -> Self {
        self.paired_rows = Some(head_dim);
        self
    }

    /// Rows that are read together: whole heads, and few enough to be forgotten soon.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        const VALUES: usize = 1 << 20;
        let width: usize = self.shape[1..].iter().product();
        let unit = self.paired_rows.unwrap_or(1);
        let rows = (VALUES / width.max(1) / unit).max(1) * unit;
        let height = self.shape[0];
        (0..height)
            .step_by(rows)
            .map(move |first| first..height.min(first + rows))
    }
}

/// An open GGUF file, or all shards of one: its metadata, and tensors on demand.
///
/// The files are mapped into memory. One that is changed while it is open gives wrong tensors,
/// and one that is truncated then ends the process; replace model files, do not rewrite them.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// In the order of their numbers.
    files: Vec<MappedFile>,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens a file and reads its header; of a file that is one of several, all of them.
    ///
    /// # Errors
    /// When a file cannot be read, its header does not describe what is in it, or files do not
    /// belong together.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let (file, header) = open_file(path)?;
        let count = header.count(SPLIT_COUNT);
        let count = count.map_err(|reason| ModelError::new(path, reason))?;
        let Some(count) = count.filter(|count| *count > 1) else {
            return Ok(Self {
                path: path.to_owned(),
                files: vec![file],
                metadata: header.metadata,
                tensors: header.tensors,
            });
        };
        drop(file);
        Self::open_shards(path, count)
    }

    fn open_shards(path: &Path, count: usize) -> Result<Self, ModelError> {
        let refuse = |reason: String| ModelError::new(path, reason);
        let shards = shards(path);
        if shards.len() != count {
            return Err(refuse(format!(
                "{SPLIT_COUNT} is {count}, which its name does not say; accepted: names that end \
                 in -00001-of-{count:05}.gguf and so on"
            )));
        }
        let mut files = Vec::new();
        let mut metadata = HashMap::new();
        let mut tensors: HashMap<String, TensorInfo> = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            if !shard.exists() {
                let missing = shard.display();
                return Err(refuse(format!("its shard {missing} is missing")));
            }
            let (file, header) = open_file(shard)?;
            let refuse = |reason: String| ModelError::new(shard, reason);
            for (key, expected) in [(SPLIT_NUMBER, number), (SPLIT_COUNT, count)] {
                let found = header.count(key).map_err(refuse)?;
                if found != Some(expected) {
                    let found = found.map_or("missing".into(), |found| found.to_string());
                    return Err(refuse(format!(
                        "{key} is {found}; of shard {} of {count} it is {expected}",
                        number + 1
                    )));
                }
            }
            for (name, info) in header.tensors {
                match tensors.entry(name) {
                    Entry::Occupied(found) => {
                        let other = shards[found.get().file].display();
                        let name = found.key();
                        return Err(refuse(format!("tensor {name} is in {other}, too")));
                    }
                    Entry::Vacant(place) => {
                        place.insert(TensorInfo {
                            file: number,
                            ..info
                        });
                    }
                }
            }
            if number == 0 {
                metadata = header.metadata;
            }
            files.push(file);
        }
        let model = Self {
            path: path.to_owned(),
            files,
            metadata,
            tensors,
        };
        let total = model.count(SPLIT_TENSORS)?;
        if let Some(total) = total.filter(|total| *total != model.tensors.len()) {
            return Err(model.refuse(format!(
                "{SPLIT_TENSORS} is {total}; its {count} shards have {} tensors",
                model.tensors.len()
            )));
        }
        Ok(model)
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A hash of each file's header (configuration, tokenizer, template, shapes) and of both ends
    /// of every tensor, in hexadecimal digits. Training changes every tensor that it trains, so
    /// that these samples tell a model from the one it was made of.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (number, file) in self.files.iter().enumerate() {
            let in_file = self.tensors.values().filter(|info| info.file == number);
            let mut tensors: Vec<_> = in_file.map(|info| (info.start, info.bytes)).collect();
            tensors.sort_unstable();
            let bytes = file.bytes();
            let header = tensors.first().map_or(bytes.len(), |(start, _)| *start);
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes[..header]);
            for (start, length) in tensors {
                file.hash_ends(start..start + length, &mut hasher);
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// An error about this file.
    pub fn refuse(&self, reason: impl Into<String>) -> ModelError {
        ModelError::new(&self.path, reason)
    }

    fn wrong(&self, key: &str, found: &Value, accepted: &str) -> ModelError {
        self.refuse(format!("{key} is {}; accepted: {accepted}", found.kind()))
    }

    fn required<T>(&self, key: &str, found: Option<T>) -> Result<T, ModelError> {
        found.ok_or_else(|| self.refuse(format!("the metadata has no {key}")))
    }

    /// A string of the metadata, if it is there.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// An integer of the metadata from 0 to `u32::MAX`, if it is there.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => u32::try_from(*value)
                .map(|value| Some(value as usize))
                .map_err(|_| self.refuse(format!("{key} is {value}; accepted: 0 to {}", u32::MAX))),
            Some(other) => Err(self.wrong(key, other, "an integer")),
        }
    }

    /// As [`Self::count`], of a key that must be there and above 0.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        match self.required(key, self.count(key)?)? {
            0 => Err(self.refuse(format!("{key} is 0"))),
            size => Ok(size),
        }
    }

    /// A finite number of the metadata, if it is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Float(value)) => Err(self.refuse(format!("{key} is {value}"))),
            Some(other) => Err(self.wrong(key, other, "a float")),
        }
    }

    /// A boolean of the metadata, if it is there.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// An array of strings, which must be there.
    pub fn strings(&self, key: &str) -> Result<&[String], ModelError> {
        match self.required(key, self.metadata.get(key))? {
            Value::Strings(values) => Ok(values),
            other => Err(self.wrong(key, other, "an array of strings")),
        }
    }

    /// An array of floats, which must be there.
    pub fn floats(&self, key: &str) -> Result<&[f32], ModelError> {
        match self.required(key, self.metadata.get(key))? {
            Value::Floats(values) => Ok(values),
            other => Err(self.wrong(key, other, "an array of floats")),
        }
    }

    /// An array of integers, if it is there.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integers(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong(key, other, "an array of integers")),
        }
    }

    /// A metadata value, if it is there.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The keys of the metadata that begin so, without that, in order.
    pub fn keys_under(&self, prefix: &str) -> Vec<&str> {
        let keys = self.metadata.keys();
        let mut keys: Vec<&str> = keys.filter_map(|key| key.strip_prefix(prefix)).collect();
        keys.sort_unstable();
        keys
    }

    /// The names of all tensors, in order.
    pub fn tensor_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether the file has a tensor of that name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor, dequantised.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        target: &Target,
    ) -> Result<Tensor, ModelError> {
        self.stack(&[Part::new(name, shape)], target)
    }

    /// Tensors one below the other, dequantised.
    ///
    /// # Errors
    /// When one is missing, has another shape, or holds a value that is not finite.
    pub fn stack(&self, parts: &[Part], target: &Target) -> Result<Tensor, ModelError> {
        let infos = parts.iter().map(|part| self.info(part));
        let infos = infos.collect::<Result<Vec<_>, _>>()?;
        let height = parts.iter().map(|part| part.shape[0]).sum();
        let shape: Vec<usize> = std::iter::once(height)
            .chain(parts[0].shape[1..].iter().copied())
            .collect();
        let mut last = &parts[0];
        let stored = parts.iter().zip(&infos).flat_map(|(part, info)| {
            last = part;
            part.chunks().map(move |rows| {
                let rows = self.rows(part, info, rows, &Device::Cpu)?;
                let values = rows.dequantize(&Device::Cpu)?.flatten_all()?;
                values.to_vec1().map(Stored::Values)
            })
        });
        let stacked = target.stack(&shape, stored);
        let stacked =
            stacked.map_err(|error| self.refuse(format!("tensor {}: {error}", last.name)))?;
        for info in infos {
            self.files[info.file].release(info.range());
        }
        Ok(stacked)
    }

    fn info(&self, part: &Part) -> Result<&TensorInfo, ModelError> {
        let Part { name, shape, .. } = part;
        let Some(info) = self.tensors.get(name) else {
            return Err(self.refuse(format!("there is no tensor {name}")));
        };
        if info.shape != *shape {
            return Err(self.refuse(format!(
                "tensor {name} has shape {:?}; the metadata calls for {shape:?}",
                info.shape
            )));
        }
        // Rows are what is read, and of one dimension a row is less than a block.
        if shape.len() == 1 && info.dtype.block_size() != 1 {
            return Err(self.refuse(format!(
                "tensor {name} has one dimension and is of type {:?}; accepted: F32, F16, BF16",
                info.dtype
            )));
        }
        Ok(info)
    }

    /// Tensors one below the other, as they are quantised, in pieces.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn quantised(&self, parts: &[Part], device: &Device) -> Result<Vec<QTensor>, ModelError> {
        let mut pieces = Vec::new();
        for part in parts {
            let info = self.info(part)?;
            for rows in part.chunks() {
                let piece = self.rows(part, info, rows, device);
                let refuse = |error| self.refuse(format!("tensor {}: {error}", part.name));
                pieces.push(piece.map_err(refuse)?);
            }
            self.files[info.file].release(info.range());
        }
        Ok(pieces)
    }

    /// The number of values of all tensors.
    pub fn values(&self) -> usize {
        let values = |info: &TensorInfo| info.shape.iter().product::<usize>();
        self.tensors.values().map(values).sum()
    }

    /// Some rows of a tensor, in the order that the part asks for.
    fn rows(
        &self,
        part: &Part,
        info: &TensorInfo,
        rows: Range<usize>,
        device: &Device,
    ) -> candle_core::Result<QTensor> {
        let of_row = info.bytes / part.shape[0];
        let bytes = info.start + rows.start * of_row..info.start + rows.end * of_row;
        let stored = &self.files[info.file].bytes()[bytes];
        let mut shape = info.shape.clone();
        shape[0] = rows.len();
        let Some(head_dim) = part.paired_rows else {
            return ggml_file::qtensor_from_ggml(info.dtype, stored, shape, device);
        };
        let mut halves = Vec::with_capacity(stored.len());
        for head in stored.chunks(head_dim * of_row) {
            for first in [0, 1] {
                let every_other = head.chunks(of_row).skip(first).step_by(2);
                halves.extend(every_other.flatten());
            }
        }
        ggml_file::qtensor_from_ggml(info.dtype, &halves, shape, device)
    }
}

fn open_file(path: &Path) -> Result<(MappedFile, Header), ModelError> {
    let refuse = |reason: String| ModelError::new(path, reason);
    let file = MappedFile::open(path).map_err(|error| refuse(error.to_string()))?;
    let header = Header::read(file.bytes()).map_err(refuse)?;
    Ok((file, header))
}

/// The files that a file's name says it is one of, in order, or else itself alone: by the names
/// that `gguf-split` gives, `NAME-00001-of-00003.gguf` and so on. They need not be there.
pub fn shards(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(shard_names) {
        Some(names) => names.iter().map(|name| path.with_file_name(name)).collect(),
        None => vec![path.to_owned()],
    }
}

/// The names of all shards, if this is the name of one of several.
pub fn shard_names(name: &str) -> Option<Vec<String>> {
    const DIGITS: usize = 5;
    let is_number = |text: &str| text.len() == DIGITS && text.bytes().all(|c| c.is_ascii_digit());
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    if stem.is_empty() || !is_number(number) || !is_number(count) {
        return None;
    }
    let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
    if count < 2 || !(1..=count).contains(&number) {
        return None;
    }
    let name = |number: usize| format!("{stem}-{number:05}-of-{count:05}.gguf");
    Some((1..=count).map(name).collect())
}
