//! A model directory as Hugging Face transformers writes it: `config.json`, safetensors files,
//! `tokenizer.json`, `tokenizer_config.json` and a chat template.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ModelError;
use crate::families::HubConfig;
use crate::weights::finite_f32;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Far above any real description of a model, and a bound on what one that is none can ask for.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// The largest tokenizers have some 20 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// An open model directory. Weights are mapped into memory and read when they are asked for.
///
/// A weights file that is changed while it is open gives wrong tensors, and one that is truncated
/// then ends the process; replace model files, do not rewrite them.
pub struct ModelDirectory {
    path: PathBuf,
    /// `config.json`.
    pub config: HubConfig,
    /// `tokenizer_config.json`; empty where there is none.
    pub tokenizer_config: TokenizerConfig,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template, Jinja text.
    pub chat_template: Option<String>,
    tensors: MmapedSafetensors,
    descriptions: Vec<u8>,
}

impl std::fmt::Debug for ModelDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelDirectory")
            .field("path", &self.path)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The fields of `tokenizer_config.json` that matter here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TokenizerConfig {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    chat_template: Option<Value>,
}

impl TokenizerConfig {
    /// The text of the beginning-of-sequence token.
    pub fn bos(&self) -> Option<&str> {
        self.bos_token.as_ref().and_then(token_text)
    }

    /// The text of the end-of-sequence token.
    pub fn eos(&self) -> Option<&str> {
        self.eos_token.as_ref().and_then(token_text)
    }

    /// The template: a text, or of a list of named ones the one named `default`.
    fn template(&self) -> Option<String> {
        match self.chat_template.as_ref()? {
            Value::String(template) => Some(template.clone()),
            Value::Array(named) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .map(str::to_owned),
            _ => None,
        }
    }
}

/// A token is a text, or an object with its `content`.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
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

/// The files of a directory that make up a model.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_ours = |name: &str| {
        [CONFIG, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE, INDEX].contains(&name)
            || name.ends_with(".safetensors")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let refuse = |reason: String| ModelError::new(path, reason);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    if !metadata.is_file() {
        return Err(refuse("not a regular file".into()));
    }
    if metadata.len() > most {
        let found = metadata.len();
        return Err(refuse(format!("{found} bytes; accepted: up to {most}")));
    }
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    Ok(Some(bytes))
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
        let tokenizer = required(TOKENIZER, MAX_TOKENIZER_BYTES)?;
        let tokenizer_config: TokenizerConfig =
            match read(&place(TOKENIZER_CONFIG), MAX_JSON_BYTES)? {
                Some(bytes) => parse(&place(TOKENIZER_CONFIG), &bytes)?,
                None => TokenizerConfig::default(),
            };
        let chat_template = match read(&place(TEMPLATE), MAX_JSON_BYTES)? {
            Some(bytes) => Some(
                String::from_utf8(bytes)
                    .map_err(|error| ModelError::new(&place(TEMPLATE), error.to_string()))?,
            ),
            None => tokenizer_config.template(),
        };
        let shards = match read(&place(INDEX), MAX_JSON_BYTES)? {
            _ if place(WEIGHTS).is_file() => vec![place(WEIGHTS)],
            None => return Err(missing(WEIGHTS)),
            Some(bytes) => shards(path, &parse(&place(INDEX), &bytes)?)?,
        };
        // SAFETY: the mappings are read-only and private; see the type's documentation for what a
        // change of a file under them does.
        let tensors = unsafe { MmapedSafetensors::multi(&shards) };
        let tensors = tensors.map_err(|error| ModelError::new(path, error.to_string()))?;
        let mut descriptions = config_bytes.clone();
        descriptions.extend_from_slice(&tokenizer);
        descriptions.extend(chat_template.iter().flat_map(|template| template.bytes()));
        Ok(Self {
            config: parse(&place(CONFIG), &config_bytes)?,
            path: path.to_owned(),
            tokenizer_config,
            tokenizer,
            chat_template,
            tensors,
            descriptions,
        })
    }

    /// An error about this directory.
    pub fn refuse(&self, reason: impl Into<String>) -> ModelError {
        ModelError::new(&self.path, reason)
    }

    /// A hash of configuration, tokenizer and template, and of name, type, shape and both ends of
    /// every tensor, in hexadecimal digits. Training changes every tensor that it trains, so that
    /// these samples tell a model from the one it was made of.
    pub fn fingerprint(&self) -> String {
        const SAMPLE: usize = 4096;
        let mut tensors = self.tensors.tensors();
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.descriptions);
        for (name, view) in &tensors {
            let header = format!("{name} {:?} {:?}", view.dtype(), view.shape());
            hasher.update(header.as_bytes());
            let data = view.data();
            let sample = SAMPLE.min(data.len());
            hasher.update(&data[..sample]);
            hasher.update(&data[data.len() - sample..]);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Whether there is a tensor of that name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.get(name).is_ok()
    }

    /// A tensor as f32 on the device.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is not of finite floating-point numbers.
    pub fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        let Ok(view) = self.tensors.get(name) else {
            return Err(self.refuse(format!("no tensor {name}")));
        };
        if view.shape() != shape {
            return Err(self.refuse(format!(
                "tensor {name} has shape {:?}; the configuration asks for {shape:?}",
                view.shape()
            )));
        }
        let failed = |error: candle_core::Error| self.refuse(format!("tensor {name}: {error}"));
        let stored = self.tensors.load(name, &Device::Cpu).map_err(failed)?;
        if !stored.dtype().is_float() {
            return Err(self.refuse(format!(
                "tensor {name} has type {}; accepted: f32, bf16, f16, f64",
                stored.dtype().as_str()
            )));
        }
        finite_f32(&stored, device).map_err(failed)
    }
}

/// The files that an index names, which must be files of the same directory.
fn shards(path: &Path, index: &Index) -> Result<Vec<PathBuf>, ModelError> {
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let place = path.join(INDEX);
    let shard = |name: &str| {
        let is_plain = Path::new(name).file_name().and_then(|n| n.to_str()) == Some(name);
        if !is_plain || !name.ends_with(".safetensors") {
            return Err(ModelError::new(
                &place,
                format!("names '{name}'; accepted: .safetensors files of the same directory"),
            ));
        }
        if !path.join(name).is_file() {
            return Err(ModelError::new(
                &place,
                format!("names '{name}', which is missing"),
            ));
        }
        Ok(path.join(name))
    };
    names.into_iter().map(shard).collect()
}
