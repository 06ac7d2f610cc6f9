//! A language model, opened: its tokenizer and template at once, its weights when a forward
//! pass is first needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use candle_core::{DType, Device};
use ches_udfs::ModelDtype;

use crate::decoder::{Decoder, DecoderConfig, Weights};
use crate::files::error::{ModelError, said};
use crate::files::gguf::{self, Gguf};
use crate::files::memory;
use crate::files::model_directory::{self, ModelDirectory};
use crate::files::weights::Target;
use crate::models::engine::{Engine, Replica};
use crate::models::families;
use crate::texts::gguf_tokenizer::tokenizer_from_gguf;
use crate::texts::tokenizer::TextTokenizer;

/// A model that was closed gives the device's memory back within this.
const CLOSING: Duration = Duration::from_secs(5);

/// Which files a model was read from, so that a replaced file is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) path: PathBuf,
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
    device: String,
    dtype: ModelDtype,
}

impl Identity {
    /// What is at `path` now, for settings of device and type.
    ///
    /// # Errors
    /// When there is no model.
    pub(crate) fn of(path: &Path, device: &str, dtype: ModelDtype) -> Result<Self, ModelError> {
        let refuse = |error: std::io::Error| ModelError::new(path, error.to_string());
        let path = model_directory::resolve(path);
        let metadata = std::fs::metadata(&path).map_err(refuse)?;
        let files = if metadata.is_dir() {
            model_directory::files(&path).map_err(refuse)?
        } else if metadata.is_file() {
            // A shard that is missing is named when the model is opened.
            let shards = gguf::shards(&path).into_iter();
            shards.filter(|shard| shard.exists()).collect()
        } else {
            return Err(ModelError::new(
                &path,
                "not a regular file; accepted: a .gguf file or a model directory",
            ));
        };
        let stamped = |file: PathBuf| {
            let metadata = std::fs::metadata(&file)?;
            Ok((file, metadata.len(), metadata.modified().ok()))
        };
        let files = files.into_iter().map(stamped).collect::<Result<_, _>>();
        Ok(Self {
            path,
            files: files.map_err(refuse)?,
            device: device.to_owned(),
            dtype,
        })
    }
}

/// The files of a model.
#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Directory(Box<ModelDirectory>),
}

impl Source {
    fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(if path.is_dir() {
            Self::Directory(Box::new(ModelDirectory::open(path)?))
        } else {
            Self::Gguf(Gguf::open(path)?)
        })
    }

    fn config(&self) -> Result<DecoderConfig, ModelError> {
        match self {
            Self::Gguf(gguf) => families::config_from_gguf(gguf),
            Self::Directory(directory) => families::config_from_hub(directory),
        }
    }

    fn tokenizer(&self) -> Result<TextTokenizer, ModelError> {
        match self {
            Self::Gguf(gguf) => tokenizer_from_gguf(gguf),
            Self::Directory(directory) => TextTokenizer::from_directory(directory),
        }
    }

    fn chat_template(&self) -> Result<Option<String>, ModelError> {
        Ok(match self {
            Self::Gguf(gguf) => gguf.string("tokenizer.chat_template")?.map(str::to_owned),
            Self::Directory(directory) => directory.tokenizer_files.chat_template.clone(),
        })
    }

    fn fingerprint(&self) -> String {
        match self {
            Self::Gguf(gguf) => gguf.fingerprint(),
            Self::Directory(directory) => directory.fingerprint(),
        }
    }

    /// How many numbers the weights are.
    fn values(&self) -> u64 {
        match self {
            Self::Gguf(gguf) => gguf.values() as u64,
            Self::Directory(directory) => directory.values(),
        }
    }

    fn weights(
        &self,
        config: &DecoderConfig,
        target: &Target,
        dtype: ModelDtype,
    ) -> Result<Weights, ModelError> {
        match self {
            Self::Gguf(gguf) => {
                let bytes = self.values() * target.dtype.size_in_bytes() as u64;
                let keeps_quantised = dtype == ModelDtype::Auto
                    && target.device.is_cpu()
                    && bytes > memory::available() / 2;
                families::weights_from_gguf(gguf, config, target, keeps_quantised)
            }
            Self::Directory(directory) => families::weights_from_hub(directory, config, target),
        }
    }
}

/// An opened model.
#[derive(Debug)]
pub(crate) struct Model {
    /// What it was opened from.
    pub identity: Identity,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// Its own chat template, Jinja text.
    pub chat_template: Option<String>,
    fingerprint: String,
    source: Source,
    config: DecoderConfig,
    /// One for each device, at least one.
    targets: Vec<Target>,
    engine: Mutex<Option<Arc<dyn Engine>>>,
}

impl Model {
    /// Opens a model.
    ///
    /// # Errors
    /// When its description is missing, wrong or not supported.
    pub(crate) fn open(identity: Identity, targets: Vec<Target>) -> Result<Self, ModelError> {
        let source = Source::open(&identity.path)?;
        Ok(Self {
            config: source.config()?,
            tokenizer: source.tokenizer()?,
            chat_template: source.chat_template()?,
            fingerprint: source.fingerprint(),
            source,
            identity,
            targets,
            engine: Mutex::new(None),
        })
    }

    /// What tells this model from any other: a hash of what it was read from.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The type that weights and activations have.
    pub(crate) fn dtype(&self) -> DType {
        self.targets[0].dtype
    }

    /// What the decoder is like.
    pub(crate) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether it computes on CPU.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.targets[0].device.is_cpu()
    }

    /// What computes what is asked of the model. The first call reads the weights, once for each device,
    /// and starts an engine on them.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit, or the engine does not start.
    pub(crate) fn engine<E: Engine + 'static>(
        &self,
        start: impl FnOnce(Vec<Box<dyn Replica>>) -> std::io::Result<E>,
    ) -> Result<Arc<dyn Engine>, ModelError>
    where
        Decoder: Replica,
    {
        let mut slot = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*slot {
            return Ok(Arc::clone(engine));
        }
        let replicas = self.targets.iter().map(|target| {
            let replica = Box::new(self.decoder(target)?);
            Ok(replica as Box<dyn Replica>)
        });
        let engine = start(replicas.collect::<Result<_, _>>()?)
            .map_err(|error| ModelError::new(&self.identity.path, error.to_string()))?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        *slot = Some(Arc::clone(&engine));
        Ok(engine)
    }

    /// The decoder on one device, ready to compute.
    fn decoder(&self, target: &Target) -> Result<Decoder, ModelError> {
        let refuse = |reason: String| ModelError::new(&self.identity.path, reason);
        // Files may hold more than the decoder reads, such as another model's encoder of images.
        let values = self.source.values().min(self.config.parameters());
        let bytes = values * target.dtype.size_in_bytes() as u64;
        if let Some(reason) = refusal_of_weights(&target.device, bytes) {
            return Err(refuse(reason));
        }
        let weights = self
            .source
            .weights(&self.config, target, self.identity.dtype)?;
        let decoder = Decoder::new(self.config.clone(), weights, target.device.clone());
        if target.by_tensors {
            return checked(decoder.by_tensors()).map_err(|error| refuse(said(&error)));
        }
        if !decoder.is_on_cpu() {
            return checked(decoder).map_err(|error| refuse(said(&error)));
        }
        let packed = decoder.packed();
        packed.map_err(|error| refuse(error.to_string()))
    }
}

/// A decoder whose device computes what it should.
fn checked(decoder: Decoder) -> candle_core::Result<Decoder> {
    let began = Instant::now();
    let check = decoder.check_device()?;
    let (step, of_bound) = &check.worst;
    tracing::debug!(
        "the device computes what the host does: {} steps in {:?}, {step} is furthest off, at {of_bound:.1e} \
         of what is accepted",
        check.steps,
        began.elapsed()
    );
    Ok(decoder)
}

/// Why weights of so many bytes do not fit a device, if that can be told.
fn refusal_of_weights(device: &Device, bytes: u64) -> Option<String> {
    let began = Instant::now();
    let (mut free, total) = memory::available_on(device)?;
    // A model that was just closed may still be giving its memory back.
    while free < bytes && bytes <= total && began.elapsed() < CLOSING {
        std::thread::sleep(Duration::from_millis(100));
        (free, _) = memory::available_on(device)?;
    }
    let gb = |bytes: u64| bytes as f64 / 1e9;
    (bytes > free).then(|| {
        format!(
            "its weights take {:.1} GB and the device has {:.1} GB left; accepted: half precision \
             (ches.dtype), a smaller model, or ches.device = 'cpu'",
            gb(bytes),
            gb(free)
        )
    })
}
