//! What a session's settings name: a model, and how texts are rendered for it.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use ches_udfs::{ChesSettings, PromptFormat, ScorerError};

use crate::engine::device;
use crate::files::locations;
use crate::models::model::{Identity, Model};
use crate::models::open_models;
use crate::scoring::score_cache::{self, ScoreCache};
use crate::texts::chat_template::{ChatTemplate, MAX_TEMPLATE_BYTES, template_kwargs};
use crate::texts::format::Format;

/// An error that is of no setting.
pub(super) fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> ScorerError {
    ScorerError::Other(error.into())
}

/// An error of a setting: what was found and what is accepted.
pub(super) fn setting(key: &'static str, reason: impl Into<String>) -> ScorerError {
    ScorerError::Setting {
        key,
        reason: reason.into(),
    }
}

/// The model that `ches.model` names. It is the one in `slot` if that is still the same, and put there
/// if not.
pub(super) fn open_model(
    slot: &Mutex<Option<Arc<Model>>>,
    settings: &ChesSettings,
) -> Result<Arc<Model>, ScorerError> {
    let Some(place) = &settings.model else {
        return Err(setting(
            "model",
            "not set; SET ches.model = '<path>' to a model directory, a .gguf file or a URL, or give --model",
        ));
    };
    let of_model = |error: crate::files::error::ModelError| setting("model", error.to_string());
    let path = locations::local(place).map_err(of_model)?;
    let identity = Identity::of(&path, &settings.device, settings.dtype);
    let identity = identity.map_err(of_model)?;
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = slot.as_ref().filter(|model| model.identity == identity) {
        return Ok(Arc::clone(model));
    }
    // The old model goes before the new one comes, unless a query still uses it.
    *slot = None;
    let targets = device::targets(&settings.device, settings.dtype);
    let targets = targets.map_err(|reason| setting("device", reason))?;
    let model = open_models::get(identity, targets).map_err(of_model)?;
    *slot = Some(Arc::clone(&model));
    Ok(model)
}

/// What the keys of a model's scores begin with.
pub(super) fn key_of_model(model: &Model) -> String {
    format!("{} {}", model.fingerprint(), model.dtype().as_str())
}

/// The cache that `ches.cache` names, of this model's scores.
pub(super) fn open_cache(
    slot: &Mutex<Option<Arc<ScoreCache>>>,
    settings: &ChesSettings,
    model: &Model,
) -> Result<Option<Arc<ScoreCache>>, ScorerError> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    *slot = match &settings.cache {
        None => None,
        Some(place) => {
            let cache = score_cache::open(place, &key_of_model(model));
            Some(cache.map_err(|reason| setting("cache", reason))?)
        }
    };
    Ok(slot.clone())
}

/// The Jinja text that conversations are rendered by, if any.
pub(super) fn template_in_effect(
    model: &Model,
    settings: &ChesSettings,
) -> Result<Option<String>, ScorerError> {
    let overriding = settings.chat_template.as_deref().map(template_source);
    let overriding = overriding.transpose()?;
    Ok(match settings.prompt_format {
        PromptFormat::Raw => None,
        _ => overriding.or_else(|| model.chat_template.clone()),
    })
}

/// How texts are rendered.
pub(super) fn format(model: &Model, settings: &ChesSettings) -> Result<Format, ScorerError> {
    let Some(source) = template_in_effect(model, settings)? else {
        if settings.prompt_format == PromptFormat::Chat {
            return Err(setting(
                "prompt_format",
                "'chat' needs a chat template and the model has none; set ches.chat_template",
            ));
        }
        return Ok(Format::Raw);
    };
    let tokenizer = &model.tokenizer;
    let ends = tokenizer.ends();
    let kwargs = settings.chat_template_kwargs.as_deref();
    if let Some(Err(reason)) = kwargs.map(template_kwargs) {
        return Err(setting("chat_template_kwargs", reason));
    }
    let template = ChatTemplate::new(&source, &ends.named, kwargs);
    let template = template.map_err(|reason| match settings.chat_template {
        Some(_) => setting("chat_template", reason),
        None => setting("model", reason),
    })?;
    Ok(Format::chat(template, tokenizer))
}

/// The Jinja text of a `ches.chat_template` value, which may be the path of a file.
fn template_source(value: &str) -> Result<String, ScorerError> {
    if value.contains("{{") || value.contains("{%") {
        return Ok(value.to_owned());
    }
    let refuse = |reason: String| {
        let reason = format!("'{value}' is no Jinja text, and as a file: {reason}");
        setting("chat_template", reason)
    };
    let metadata = std::fs::metadata(value).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_TEMPLATE_BYTES as u64 {
        return Err(refuse(format!(
            "not a regular file of at most {MAX_TEMPLATE_BYTES} bytes"
        )));
    }
    std::fs::read_to_string(value).map_err(|error| refuse(error.to_string()))
}
