//! What a model directory says of its tokenizer beside `tokenizer.json`: its class, its special tokens
//! and its chat template.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::files::error::ModelError;
use crate::files::special_tokens::{NamedTokens, named_tokens, unnamed_tokens};
use crate::files::tokenizer_class::TokenizerClass;

pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";
pub(crate) const TEMPLATE: &str = "chat_template.jinja";

/// Far above any real one.
const MAX_BYTES: u64 = 16 << 20;

/// What the files say.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    /// `tokenizer_config.json`; empty where there is none.
    pub config: Map<String, Value>,
    /// The class that transformers makes of the directory.
    pub class: TokenizerClass,
    /// The special tokens that have names.
    pub named: NamedTokens,
    /// Those that have none.
    pub unnamed: Vec<String>,
    /// The tokens of `added_tokens.json`, in the order of their ids; none where
    /// `tokenizer_config.json` has an `added_tokens_decoder`.
    pub listed: Vec<String>,
    /// The chat template, Jinja text.
    pub chat_template: Option<String>,
}

impl TokenizerFiles {
    /// Reads the files of a directory with this `tokenizer.json`, whose model is of `model_type`.
    /// `declared` is the tokenizer class of `config.json`.
    ///
    /// # Errors
    /// When a file is too large or not what its name says.
    pub fn open(
        path: &Path,
        tokenizer: &[u8],
        model_type: &str,
        declared: Option<&str>,
    ) -> Result<Self, ModelError> {
        let place = path.join(TOKENIZER_CONFIG);
        let refuse = |reason: String| ModelError::new(&place, reason);
        let config = object(path, TOKENIZER_CONFIG)?.unwrap_or_default();
        let map = object(path, SPECIAL_TOKENS_MAP)?;
        let remote = config
            .get("auto_map")
            .and_then(|map| map.get("AutoTokenizer"));
        if remote.is_some_and(|class| !class.is_null()) {
            return Err(refuse(
                "auto_map names a tokenizer of remote code, which is never run; accepted: without it"
                    .into(),
            ));
        }
        let own_class = config.get("tokenizer_class").and_then(Value::as_str);
        let own_class = own_class.filter(|name| !name.is_empty()).or(declared);
        let class = TokenizerClass::of(own_class, model_type, tokenizer).map_err(refuse)?;
        if config.get("split_special_tokens") == Some(&Value::Bool(true)) {
            return Err(refuse(
                "split_special_tokens is true, so that special tokens would be split as other texts \
                 are; accepted: false"
                    .into(),
            ));
        }
        let own = own_parts(tokenizer)
            .map_err(|reason| ModelError::new(&path.join("tokenizer.json"), reason))?;
        let padding = own.padding.as_ref().map(|padding| &padding.pad_token[..]);
        let named = named_tokens(&config, map.as_ref(), class, padding).map_err(refuse)?;
        let unnamed = unnamed_tokens(&config, map.as_ref());
        let listed = match config.contains_key("added_tokens_decoder") {
            true => Vec::new(),
            false => listed_tokens(path)?,
        };
        let chat_template = match read(path, TEMPLATE)? {
            Some(bytes) => Some(
                String::from_utf8(bytes)
                    .map_err(|error| ModelError::new(&path.join(TEMPLATE), error.to_string()))?,
            ),
            None => default_template(config.get("chat_template")).map_err(refuse)?,
        };
        Ok(Self {
            config,
            class,
            named,
            unnamed,
            listed,
            chat_template,
        })
    }

    /// The text of a special token, if it is named.
    pub fn named(&self, name: &str) -> Option<&str> {
        let found = self.named.iter().find(|(named, _)| named == name);
        found.map(|(_, text)| &text[..])
    }
}

/// What is looked at of `tokenizer.json` before it is opened.
#[derive(Deserialize)]
struct OwnParts {
    padding: Option<Padding>,
    #[serde(default)]
    model: OwnModel,
}

#[derive(Deserialize)]
struct Padding {
    #[serde(default)]
    pad_token: String,
}

#[derive(Deserialize, Default)]
struct OwnModel {
    dropout: Option<f64>,
}

fn own_parts(tokenizer: &[u8]) -> Result<OwnParts, String> {
    let own: OwnParts = serde_json::from_slice(tokenizer).map_err(|error| error.to_string())?;
    match own.model.dropout {
        Some(dropout) if dropout > 0.0 => Err(format!(
            "its model has a dropout of {dropout}, so that a text would have other tokens each time; \
             accepted: null"
        )),
        _ => Ok(own),
    }
}

/// The tokens of `added_tokens.json`, if there is one.
fn listed_tokens(path: &Path) -> Result<Vec<String>, ModelError> {
    let listed = object(path, ADDED_TOKENS)?.unwrap_or_default();
    let mut tokens = Vec::with_capacity(listed.len());
    for (text, id) in listed {
        let Some(id) = id.as_u64() else {
            let reason = format!("the id of '{text}' is {id}; accepted: a number");
            return Err(ModelError::new(&path.join(ADDED_TOKENS), reason));
        };
        tokens.push((id, text));
    }
    tokens.sort();
    Ok(tokens.into_iter().map(|(_, text)| text).collect())
}

fn read(path: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    crate::files::small_file::read(&path.join(name), MAX_BYTES)
}

fn object(path: &Path, name: &str) -> Result<Option<Map<String, Value>>, ModelError> {
    let parse = |bytes: Vec<u8>| {
        let parsed = serde_json::from_slice(&bytes);
        parsed.map_err(|error| ModelError::new(&path.join(name), error.to_string()))
    };
    read(path, name)?.map(parse).transpose()
}

/// The template: a text, or of several named ones the one named `default`.
fn default_template(template: Option<&Value>) -> Result<Option<String>, String> {
    let named: Vec<(&str, &Value)> = match template {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(template)) => return Ok(Some(template.clone())),
        Some(Value::Object(named)) => named.iter().map(|(name, text)| (&name[..], text)).collect(),
        Some(other) => {
            let entries = other.as_array().map_or(&[][..], Vec::as_slice);
            let names = entries.iter().map(|entry| entry["name"].as_str());
            let templates = entries.iter().map(|entry| &entry["template"]);
            let entries = names.zip(templates);
            entries
                .filter_map(|(name, text)| Some((name?, text)))
                .collect()
        }
    };
    // Of several of one name the last one counts.
    let default = named.iter().rev().find(|(name, _)| *name == "default");
    match default.and_then(|(_, template)| template.as_str()) {
        Some(template) => Ok(Some(template.to_owned())),
        None => {
            let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "chat_template is no text, and of the templates [{}] none is 'default'; accepted: \
                 either",
                names.join(", ")
            ))
        }
    }
}
