//! Reading GGUF model files, without trusting them.
//!
//! The format is ggml's (`docs/gguf.md` of the ggml repository), versions 2 and 3, little
//! endian. A header's counts and lengths are checked against the bytes that are there before
//! anything is allocated for them, so that a file can never ask for more memory than a small
//! multiple of its own size.
//!
//! A model may lie in several files, as `gguf-split` of llama.cpp names and numbers them; it is
//! opened by the name of any of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, ggml_file};
use candle_core::{Device, Tensor};

use crate::files::error::ModelError;
use crate::files::mapped_file::MappedFile;
use crate::files::weights::{Stored, Target};

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;

/// How many files a model has, which of them this is, from 0, and how many tensors all have.
const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// A metadata value. Numbers keep their kind, not their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned or signed integer.
    Integer(i128),
    /// A float of either width.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of integers.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f32>),
    /// An array of booleans.
    Bools(Vec<bool>),
    /// An array of strings.
    Strings(Vec<String>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Integers(_) => "an array of integers",
            Self::Floats(_) => "an array of floats",
            Self::Bools(_) => "an array of booleans",
            Self::Strings(_) => "an array of strings",
        }
    }
}

#[derive(Debug, Clone)]
struct TensorInfo {
    dtype: GgmlDType,
    /// Outermost first, as candle has them; the file has them innermost first.
    shape: Vec<usize>,
    /// Which of the model's files it is in.
    file: usize,
    start: usize,
    bytes: usize,
}

impl TensorInfo {
    /// Where it is in its file.
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }
}

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
            self.files[info.file].let_go(info.range());
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
            self.files[info.file].let_go(info.range());
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

struct Header {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4, "the magic")? != MAGIC {
            return Err("not a GGUF file: it does not begin with 'GGUF'".into());
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(format!(
                "GGUF version {version}; accepted: 2 and 3, little endian"
            ));
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let metadata_count = reader.u64("the number of metadata entries")?;
        // A key and a type, and a value of at least a byte; a name, a dimension count, a type
        // and an offset.
        reader.check_count(metadata_count, 8 + 4 + 1, "metadata entries")?;
        reader.check_count(tensor_count, 8 + 4 + 4 + 8, "tensors")?;
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = reader.string("a metadata key")?;
            let value = reader
                .u32("a metadata type")
                .and_then(|kind| reader.value(kind))
                .map_err(|reason| format!("metadata {key}: {reason}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata {key} is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(value)) => u64::try_from(*value)
                .ok()
                .filter(|value| value.is_power_of_two() && (8..=1 << 20).contains(value))
                .ok_or_else(|| {
                    format!("general.alignment is {value}; accepted: a power of 2 from 8")
                })?,
            Some(other) => return Err(format!("general.alignment is {}", other.kind())),
        };
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor_info()?);
        }
        let data = (reader.at as u64).next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, dtype, shape, offset) in infos {
            let info = place(dtype, shape, data, offset, alignment, bytes.len() as u64)
                .map_err(|reason| format!("tensor {name}: {reason}"))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        refuse_overlap(&tensors)?;
        Ok(Self { metadata, tensors })
    }

    /// A count of the metadata, if it is there.
    fn count(&self, key: &str) -> Result<Option<usize>, String> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => match u16::try_from(*value) {
                Ok(value) => Ok(Some(value.into())),
                Err(_) => Err(format!("{key} is {value}; accepted: 0 to {}", u16::MAX)),
            },
            Some(other) => Err(format!("{key} is {}; accepted: an integer", other.kind())),
        }
    }
}

fn place(
    dtype: GgmlDType,
    shape: Vec<usize>,
    data: u64,
    offset: u64,
    alignment: u64,
    file: u64,
) -> Result<TensorInfo, String> {
    if !offset.is_multiple_of(alignment) {
        return Err(format!(
            "its offset {offset} is not a multiple of {alignment}"
        ));
    }
    let block = dtype.block_size();
    // A row is a whole number of blocks.
    if shape
        .last()
        .is_none_or(|inner| !inner.is_multiple_of(block))
    {
        return Err(format!(
            "its rows {shape:?} are no multiple of the {block} values of a {dtype:?} block"
        ));
    }
    let place = shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size as u64))
        .and_then(|values| (values / block as u64).checked_mul(dtype.type_size() as u64))
        .and_then(|bytes| {
            let start = data.checked_add(offset)?;
            (start.checked_add(bytes)? <= file).then_some((start as usize, bytes as usize))
        });
    match place {
        Some((start, bytes)) => Ok(TensorInfo {
            dtype,
            shape,
            file: 0,
            start,
            bytes,
        }),
        None => Err(format!(
            "its data (shape {shape:?}, offset {offset}) reaches beyond the file's {file} bytes; \
             the file is truncated or damaged"
        )),
    }
}

/// Tensors that share bytes would let a small file ask for any amount of memory.
fn refuse_overlap(tensors: &HashMap<String, TensorInfo>) -> Result<(), String> {
    let mut places: Vec<_> = tensors
        .iter()
        .map(|(name, info)| (info.start, info.start + info.bytes, name))
        .collect();
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(format!("tensors {} and {} overlap", pair[0].2, pair[1].2)),
    }
}

/// The ggml types that candle can dequantise.
fn dtype(code: u32) -> Result<GgmlDType, String> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => {
            return Err(format!(
                "ggml type {code}; accepted: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
                 Q3_K, Q4_K, Q5_K, Q6_K"
            ));
        }
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.bytes[self.at..].get(..count))
            .ok_or_else(|| {
                format!(
                    "the file ends within {what}: {count} bytes at position {}, {} are left",
                    self.at,
                    self.remaining()
                )
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("as many bytes as were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn check_count(&self, count: u64, bytes_each: u64, what: &str) -> Result<(), String> {
        let fits = count
            .checked_mul(bytes_each)
            .is_some_and(|bytes| bytes <= self.remaining() as u64);
        if fits {
            Ok(())
        } else {
            Err(format!(
                "{count} {what} cannot fit in the {} bytes that are left",
                self.remaining()
            ))
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        const WHAT: &str = "a value";
        Ok(match kind {
            6 => Value::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string("a string")?),
            9 => {
                let kind = self.u32("an array's type")?;
                let count = self.u64("an array's length")?;
                self.values(kind, count)?
            }
            10 => Value::Integer(self.u64(WHAT)?.into()),
            _ => Value::Integer(self.integer(kind)?.into()),
        })
    }

    fn values(&mut self, kind: u32, count: u64) -> Result<Value, String> {
        let bytes_each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err("an array of arrays; accepted: arrays of plain values".into()),
            _ => return Err(format!("an array of unknown type {kind}")),
        };
        self.check_count(count, bytes_each, "array elements")?;
        Ok(match kind {
            6 => Value::Floats(self.collect(count, |reader| {
                reader.array("an element").map(f32::from_le_bytes)
            })?),
            12 => Value::Floats(self.collect(count, |reader| {
                Ok(f64::from_le_bytes(reader.array("an element")?) as f32)
            })?),
            7 => Value::Bools(self.collect(count, Self::bool)?),
            8 => Value::Strings(self.collect(count, |reader| reader.string("an element"))?),
            _ => Value::Integers(self.collect(count, |reader| reader.integer(kind))?),
        })
    }

    fn collect<T>(
        &mut self,
        count: u64,
        read: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        (0..count).map(|_| read(self)).collect()
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.array::<1>("a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("a boolean of value {other}")),
        }
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        const WHAT: &str = "an integer";
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(WHAT)?).into(),
            1 => i8::from_le_bytes(self.array(WHAT)?).into(),
            2 => u16::from_le_bytes(self.array(WHAT)?).into(),
            3 => i16::from_le_bytes(self.array(WHAT)?).into(),
            4 => u32::from_le_bytes(self.array(WHAT)?).into(),
            5 => i32::from_le_bytes(self.array(WHAT)?).into(),
            10 => i64::try_from(self.u64(WHAT)?)
                .map_err(|_| "an integer above the signed 64-bit range".to_owned())?,
            11 => i64::from_le_bytes(self.array(WHAT)?),
            _ => return Err(format!("unknown type {kind}")),
        })
    }

    fn tensor_info(&mut self) -> Result<(String, GgmlDType, Vec<usize>, u64), String> {
        let name = self.string("a tensor's name")?;
        let refuse = |reason: String| format!("tensor {name}: {reason}");
        let count = self.u32("its number of dimensions").map_err(refuse)?;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(refuse(format!(
                "{count} dimensions; accepted: 1 to {MAX_DIMENSIONS}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            let size = self.u64("a dimension").map_err(refuse)?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(refuse(format!("a dimension of {size}"))),
            }
        }
        shape.reverse();
        let dtype = self.u32("its type").and_then(dtype).map_err(refuse)?;
        let offset = self.u64("its offset").map_err(refuse)?;
        Ok((name, dtype, shape, offset))
    }
}
