//! A model directory as Hugging Face transformers writes it: `config.json`, safetensors files,
//! `tokenizer.json`, `tokenizer_config.json` and a chat template.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::files::error::ModelError;
use crate::files::mapped_file::MappedFile;
use crate::files::small_file::read;
use crate::files::tokenizer_files::{
    ADDED_TOKENS, SPECIAL_TOKENS_MAP, TEMPLATE, TOKENIZER_CONFIG, TokenizerFiles,
};
use crate::files::weights::{Stored, Target};

/// The description of the model.
pub const CONFIG: &str = "config.json";
/// The tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// Which file has which tensor, where there are several.
pub const INDEX: &str = "model.safetensors.index.json";
/// The description of an adapter, whose weights lie beside it.
pub const ADAPTER: &str = "adapter_config.json";

/// Far above any real description of a model, and a bound on what one that is none can ask for.
pub const MAX_JSON_BYTES: u64 = 16 << 20;
/// The largest tokenizers have some 20 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// An open model directory. Weights are mapped into memory and read when they are asked for.
///
/// A weights file that is changed while it is open gives wrong tensors, and one that is truncated
/// then ends the process; replace model files, do not rewrite them.
pub struct ModelDirectory {
    path: PathBuf,
    /// All that `config.json` holds.
    pub config_keys: Map<String, Value>,
    /// What is said of the tokenizer beside `tokenizer.json`.
    pub tokenizer_files: TokenizerFiles,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    config: Vec<u8>,
    end_of_sequence: Option<u32>,
    shards: Vec<MappedFile>,
    tensors: BTreeMap<String, StoredTensor>,
    descriptions: Vec<u8>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct StoredTensor {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Some rows of a tensor: `rows` of its outermost dimension.
#[derive(Debug, Clone)]
pub struct TensorRows {
    /// The tensor's name.
    pub name: String,
    /// The shape that it must have.
    pub shape: Vec<usize>,
    /// Which rows.
    pub rows: Range<usize>,
}

impl TensorRows {
    /// All rows of a tensor.
    pub fn all(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            rows: 0..shape[0],
        }
    }
}

impl std::fmt::Debug for ModelDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelDirectory")
            .field("path", &self.path)
            .field("config", &self.config_keys)
            .finish_non_exhaustive()
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::HashMap<String, String>,
}

/// The directory that a path means: in the Hub's cache layout, that of its main revision.
pub fn resolve(path: &Path) -> PathBuf {
    let revision = std::fs::read_to_string(path.join("refs/main"));
    let is_plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
    match revision {
        Ok(revision) if is_plain(revision.trim()) => path.join("snapshots").join(revision.trim()),
        _ => path.to_owned(),
    }
}

/// Whether a file of this name, in a model's directory, is part of the model.
pub fn is_file_of_a_model(name: &str) -> bool {
    [
        CONFIG,
        TOKENIZER,
        TOKENIZER_CONFIG,
        SPECIAL_TOKENS_MAP,
        ADDED_TOKENS,
        TEMPLATE,
        INDEX,
        ADAPTER,
    ]
    .contains(&name)
        || is_shard(name)
}

/// Whether this names a safetensors file, and in no other directory.
fn is_shard(name: &str) -> bool {
    Path::new(name).file_name().and_then(|n| n.to_str()) == Some(name)
        && name.ends_with(".safetensors")
}

/// The files of a directory that make up a model.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_file_of_a_model) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// What is needed of `config.json` whatever the family.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    model_type: String,
    eos_token_id: Option<TokenIds>,
}

/// One id or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(i64),
    Several(Vec<i64>),
}

impl TokenIds {
    fn first(&self) -> Option<u32> {
        let first = match self {
            Self::One(id) => Some(*id),
            Self::Several(ids) => ids.first().copied(),
        };
        first.and_then(|id| u32::try_from(id).ok())
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| ModelError::new(path, error.to_string()))
}

impl ModelDirectory {
    /// Opens a directory.
    ///
    /// # Errors
    /// When a file is missing, too large, or not what its name says.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let place = |name: &str| path.join(name);
        let missing = |name: &str| {
            let found = files(path).unwrap_or_default();
            let found: Vec<_> = found
                .iter()
                .filter_map(|file| file.file_name()?.to_str())
                .collect();
            let found = match &found[..] {
                [] => "none of a model's files".into(),
                names => names.join(", "),
            };
            ModelError::new(
                path,
                format!(
                    "no {name}; found: {found}; a model directory has {CONFIG}, {TOKENIZER} and \
                     {WEIGHTS} or {INDEX}"
                ),
            )
        };
        let required =
            |name: &str, most: u64| read(&place(name), most)?.ok_or_else(|| missing(name));
        let config_bytes = required(CONFIG, MAX_JSON_BYTES)?;
        if place(ADAPTER).exists() {
            return Err(ModelError::new(
                path,
                format!(
                    "{ADAPTER} beside {CONFIG}: transformers would apply the adapter to the model, \
                     which is not implemented; merge it into the weights, or move {ADAPTER} away"
                ),
            ));
        }
        let tokenizer = required(TOKENIZER, MAX_TOKENIZER_BYTES)?;
        let config_keys: Map<String, Value> = parse(&place(CONFIG), &config_bytes)?;
        let described: Described = parse(&place(CONFIG), &config_bytes)?;
        let declared = config_keys.get("tokenizer_class").and_then(Value::as_str);
        let tokenizer_files =
            TokenizerFiles::open(path, &tokenizer, &described.model_type, declared)?;
        let shards = match read(&place(INDEX), MAX_JSON_BYTES)? {
            _ if place(WEIGHTS).is_file() => vec![place(WEIGHTS)],
            None => return Err(missing(WEIGHTS)),
            Some(bytes) => shards(path, &bytes)?,
        };
        look_at_other_files(path, &shards)?;
        let mut tensors = BTreeMap::new();
        let mut mapped = Vec::new();
        for (at, shard) in shards.iter().enumerate() {
            let refuse = |reason: String| ModelError::new(shard, reason);
            let file = MappedFile::open(shard).map_err(|error| refuse(error.to_string()))?;
            let of_file = stored_tensors(file.bytes(), at).map_err(refuse)?;
            for (name, tensor) in of_file {
                let other = tensors.insert(name.clone(), tensor);
                if let Some(other) = other {
                    let other = shards[other.shard].display();
                    return Err(refuse(format!("tensor {name} is also in {other}")));
                }
            }
            mapped.push(file);
        }
        let mut descriptions = config_bytes.clone();
        descriptions.extend_from_slice(&tokenizer);
        let added = tokenizer_files.config.get("added_tokens_decoder");
        let added = added.map(Value::to_string).unwrap_or_default();
        let named = tokenizer_files.named.iter();
        let named = named.flat_map(|(name, text)| [&name[..], text]);
        let template = tokenizer_files.chat_template.as_deref();
        for text in named.chain([&added[..], template.unwrap_or_default()]) {
            descriptions.extend_from_slice(text.as_bytes());
            descriptions.push(0);
        }
        Ok(Self {
            config: config_bytes,
            end_of_sequence: described.eos_token_id.as_ref().and_then(TokenIds::first),
            config_keys,
            path: path.to_owned(),
            tokenizer_files,
            tokenizer,
            shards: mapped,
            tensors,
            descriptions,
        })
    }

    /// `config.json`, as a type that knows its fields.
    ///
    /// # Errors
    /// When a field is of another type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        parse(&self.path.join(CONFIG), &self.config)
    }

    /// The id of the end-of-sequence token that `config.json` names, the first if there are several.
    pub fn end_of_sequence(&self) -> Option<u32> {
        self.end_of_sequence
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this directory.
    pub fn refuse(&self, reason: impl Into<String>) -> ModelError {
        ModelError::new(&self.path, reason)
    }

    /// A hash of configuration, tokenizer and template, and of name, type, shape and both ends of
    /// every tensor, in hexadecimal digits. Training changes every tensor that it trains, so that
    /// these samples tell a model from the one it was made of.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.descriptions);
        for (name, tensor) in &self.tensors {
            let header = format!("{name} {:?} {:?}", tensor.dtype, tensor.shape);
            hasher.update(header.as_bytes());
            self.shards[tensor.shard].hash_ends(tensor.bytes.clone(), &mut hasher);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.shards[tensor.shard].bytes()[tensor.bytes.clone()]
    }

    /// Whether two tensors are there and hold the same.
    pub fn are_equal(&self, a: &str, b: &str) -> bool {
        let bytes = |name: &str| self.tensors.get(name).map(|tensor| self.bytes(tensor));
        bytes(a).is_some() && bytes(a) == bytes(b)
    }

    /// Whether there is a tensor of that name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// How many numbers all tensors have.
    pub fn values(&self) -> u64 {
        let values =
            |tensor: &StoredTensor| tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        self.tensors.values().map(values).sum()
    }

    /// The names of all tensors, in order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Looks at what is said of a tensor, and reads none of it.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is not of floating-point numbers.
    pub fn check(&self, part: &TensorRows) -> Result<(), ModelError> {
        let tensor = self.stored(part)?;
        match tensor.dtype {
            Dtype::F32 | Dtype::F64 | Dtype::BF16 | Dtype::F16 => Ok(()),
            other => Err(self.refuse(format!(
                "tensor {}: type {other:?}; accepted: F32, BF16, F16, F64",
                part.name
            ))),
        }
    }

    /// Rows of tensors, one below the other.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or is not of finite floating-point numbers.
    pub fn stack(&self, parts: &[TensorRows], target: &Target) -> Result<Tensor, ModelError> {
        let tensors = parts.iter().map(|part| self.stored(part));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let height = parts.iter().map(|part| part.rows.len()).sum();
        let shape: Vec<usize> = std::iter::once(height)
            .chain(parts[0].shape[1..].iter().copied())
            .collect();
        let mut last = &parts[0];
        let stored = parts.iter().zip(&tensors).map(|(part, tensor)| {
            last = part;
            let bytes = self.bytes(tensor);
            let stored = match tensor.dtype {
                Dtype::F32 => Stored::F32(bytes),
                Dtype::F64 => Stored::F64(bytes),
                Dtype::BF16 => Stored::Bf16(bytes),
                Dtype::F16 => Stored::F16(bytes),
                other => candle_core::bail!("type {other:?}; accepted: F32, BF16, F16, F64"),
            };
            Ok(stored.rows(part.rows.clone(), part.shape[0]))
        });
        let stacked = target.stack(&shape, stored);
        let stacked =
            stacked.map_err(|error| self.refuse(format!("tensor {}: {error}", last.name)))?;
        for tensor in tensors {
            self.shards[tensor.shard].release(tensor.bytes.clone());
        }
        Ok(stacked)
    }

    fn stored(&self, part: &TensorRows) -> Result<&StoredTensor, ModelError> {
        let TensorRows { name, shape, .. } = part;
        let Some(tensor) = self.tensors.get(name) else {
            return Err(self.refuse(format!("no tensor {name}; found: {}", self.found())));
        };
        if tensor.shape != *shape {
            return Err(self.refuse(format!(
                "tensor {name} has shape {:?}; the configuration asks for {shape:?}",
                tensor.shape
            )));
        }
        Ok(tensor)
    }

    /// The tensors that are there, in few words.
    fn found(&self) -> String {
        const MOST: usize = 12;
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        let others = names.len().saturating_sub(MOST);
        names.truncate(MOST);
        let names = names.join(", ");
        match others {
            0 => names,
            _ => format!("{names} and {others} others"),
        }
    }
}

/// The tensors of a safetensors file.
fn stored_tensors(bytes: &[u8], shard: usize) -> Result<Vec<(String, StoredTensor)>, String> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let data = header + size_of::<u64>();
    let tensors = metadata.tensors();
    let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let tensor = StoredTensor {
            shard,
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: data + start..data + end,
        };
        (name, tensor)
    };
    Ok(tensors.into_iter().map(stored).collect())
}

/// The files that an index names, which must be files of its own directory.
///
/// # Errors
/// When it is no index, or names anything else.
pub fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| !is_shard(name)) {
        None => Ok(names),
        Some(name) => Err(format!(
            "names '{name}'; accepted: .safetensors files of the same directory"
        )),
    }
}

/// Looks at the safetensors files that are not among those to read.
///
/// # Errors
/// When transformers would read them.
fn look_at_other_files(path: &Path, shards: &[PathBuf]) -> Result<(), ModelError> {
    let files = files(path).map_err(|error| ModelError::new(path, error.to_string()))?;
    let names = files.iter().filter(|file| !shards.contains(file));
    let names = names.filter_map(|file| file.file_name()?.to_str());
    let names: Vec<&str> = names.filter(|name| is_shard(name)).collect();
    let of_many = names
        .iter()
        .find(|name| name.starts_with("shard-") && name.contains("-model-"));
    if let Some(name) = of_many {
        return Err(ModelError::new(
            path,
            format!(
                "{name}, a part of a distributed checkpoint, which transformers reads instead of \
                 {WEIGHTS} or {INDEX}; save the model whole, or move such files away"
            ),
        ));
    }
    if !names.is_empty() {
        tracing::warn!(
            "{}: files that are not read: {}",
            path.display(),
            names.join(", ")
        );
    }
    Ok(())
}

fn shards(path: &Path, index: &[u8]) -> Result<Vec<PathBuf>, ModelError> {
    let refuse = |reason: String| ModelError::new(&path.join(INDEX), reason);
    let shard = |name: String| {
        let shard = path.join(&name);
        if shard.is_file() {
            Ok(shard)
        } else {
            Err(refuse(format!("names '{name}', which is missing")))
        }
    };
    let names = shard_names(index).map_err(refuse)?;
    names.into_iter().map(shard).collect()
}
