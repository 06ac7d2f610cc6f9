//! A language model, opened: its tokenizer and template at once, its weights when a forward
//! pass is first needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use candle_core::{DType, Device};

use crate::decoder::{Decoder, DecoderConfig};
use crate::error::ModelError;
use crate::families;
use crate::gguf::Gguf;
use crate::tokenizer::TextTokenizer;

/// Which file a model was read from, so that a replaced file is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
    device: String,
}

impl Identity {
    /// What is at `path` now, for a device setting.
    ///
    /// # Errors
    /// When there is no model file.
    pub fn of(path: &Path, device: &str) -> Result<Self, ModelError> {
        let metadata =
            std::fs::metadata(path).map_err(|error| ModelError::new(path, error.to_string()))?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() {
                "a directory"
            } else {
                "not a regular file"
            };
            return Err(ModelError::new(
                path,
                format!("{found}; accepted: a .gguf file"),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            device: device.to_owned(),
        })
    }
}

/// An opened model.
#[derive(Debug)]
pub struct Model {
    /// What it was opened from.
    pub identity: Identity,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// Its own chat template, Jinja text.
    pub chat_template: Option<String>,
    fingerprint: String,
    gguf: Gguf,
    config: DecoderConfig,
    device: Device,
    decoder: Mutex<Option<Arc<Decoder>>>,
    /// Held while a batch runs: one forward pass uses every core.
    forward: Mutex<()>,
}

impl Model {
    /// Opens a model.
    ///
    /// # Errors
    /// When its description is missing, wrong or not supported.
    pub fn open(identity: Identity, device: Device) -> Result<Self, ModelError> {
        let gguf = Gguf::open(&identity.path)?;
        Ok(Self {
            tokenizer: TextTokenizer::from_gguf(&gguf)?,
            chat_template: gguf.string("tokenizer.chat_template")?.map(str::to_owned),
            config: families::config_from_gguf(&gguf)?,
            fingerprint: gguf.fingerprint(),
            gguf,
            identity,
            device,
            decoder: Mutex::new(None),
            forward: Mutex::new(()),
        })
    }

    /// What tells this model from any other: a hash of what it was read from.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The type that weights and activations have.
    pub fn dtype(&self) -> DType {
        DType::F32
    }

    /// Most tokens of a sequence.
    pub fn max_positions(&self) -> usize {
        self.config.max_positions
    }

    /// The decoder; reads the weights on the first call.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit.
    pub fn decoder(&self) -> Result<Arc<Decoder>, ModelError> {
        let mut decoder = self.decoder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(decoder) = &*decoder {
            return Ok(Arc::clone(decoder));
        }
        let weights = families::weights_from_gguf(&self.gguf, &self.config, &self.device)?;
        let read = Arc::new(Decoder::new(
            self.config.clone(),
            weights,
            self.device.clone(),
        ));
        *decoder = Some(Arc::clone(&read));
        Ok(read)
    }

    /// Runs `work` while no other forward pass runs.
    pub fn exclusively<T>(&self, work: impl FnOnce() -> T) -> T {
        let _guard = self.forward.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}
