//! The `ches.*` settings of a session.

use std::any::Any;
use std::fmt::Display;
use std::str::FromStr;

use datafusion::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};

/// What a row error does (`ches.on_error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnError {
    /// The query fails with row, column and reason.
    #[default]
    Fail,
    /// The row's scores are NULL and `preference_scores(..)['error']` says why.
    Null,
}

/// How prompts and responses become one text (`ches.prompt_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PromptFormat {
    /// Chat where the model has a chat template or one is set, else raw.
    #[default]
    Auto,
    /// Rendered by the chat template.
    Chat,
    /// As they are, after the tokenizer's own BOS.
    Raw,
}

/// The type that a model computes in (`ches.dtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ModelDtype {
    /// bfloat16 on a GPU, 32-bit floats on CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// The words of a setting that takes one of a few.
trait Keyword: Sized + Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find_map(|(word, value)| (*value == self).then_some(*word))
            .expect("every value has a word")
    }
}

impl Keyword for OnError {
    const WORDS: &'static [(&'static str, Self)] = &[("fail", Self::Fail), ("null", Self::Null)];
}

impl Keyword for PromptFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("chat", Self::Chat),
        ("raw", Self::Raw),
    ];
}

impl Keyword for ModelDtype {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("f32", Self::F32),
        ("bf16", Self::Bf16),
        ("f16", Self::F16),
    ];
}

/// The settings of a session, `SET ches.<key> = …`.
///
/// A [`ConfigExtension`] of DataFusion under the prefix `ches`; `SHOW ches.<key>` and
/// `information_schema.df_settings` read it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChesSettings {
    /// Where the model is. Key `model`; none by default, and then no function can answer.
    pub model: Option<String>,
    /// Jinja text, or the path of a file of it, that overrides the model's chat template. Key
    /// `chat_template`.
    pub chat_template: Option<String>,
    /// A JSON object whose keys the chat template sees as names. Key `chat_template_kwargs`; none by
    /// default.
    pub chat_template_kwargs: Option<String>,
    /// The column beside the texts whose tools the chat template finds. Key `tools_column`; none by default.
    pub tools_column: Option<String>,
    /// The column beside the texts whose names the chat template finds. Key
    /// `chat_template_kwargs_column`; none by default.
    pub chat_template_kwargs_column: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:<n>[,<n>…]`. Key `device`.
    pub device: String,
    /// What weights are, and on a GPU what is multiplied with them. Key `dtype`.
    pub dtype: ModelDtype,
    /// Tokens of prompt + response that are kept, the end token not counted; 0 is the model's
    /// limit. Key `max_length`.
    pub max_length: usize,
    /// Key `prompt_format`.
    pub prompt_format: PromptFormat,
    /// Tokens that one forward pass computes at most, unless a single row has more; 0 is chosen for
    /// the device. Key `batch_tokens`.
    pub batch_tokens: usize,
    /// Key `on_error`.
    pub on_error: OnError,
    /// With [`OnError::Null`], the share of rows above which failures end the job, after the first 1,000.
    /// Key `max_failed_fraction`.
    pub max_failed_fraction: f64,
    /// Bytes of scores that are kept in this process, shared by queries; 0 keeps none. Key
    /// `memo_bytes`.
    pub memo_bytes: usize,
    /// URL or path of a directory of scores that outlives the process; none by default. Key `cache`.
    pub cache: Option<String>,
    /// Bytes that those activations of one forward pass may take that grow with its tokens; 0 is chosen
    /// for the machine. Key `memory_limit`.
    pub memory_limit: usize,
    /// The most tokens that `gaining` and `losing` hold. Key `top_tokens`.
    pub top_tokens: usize,
    /// By how much `displacement_simulated` moves every weight. Key `learning_rate`.
    pub learning_rate: f64,
}

impl Default for ChesSettings {
    fn default() -> Self {
        Self {
            model: None,
            chat_template: None,
            chat_template_kwargs: None,
            tools_column: None,
            chat_template_kwargs_column: None,
            device: "auto".into(),
            dtype: ModelDtype::default(),
            max_length: 0,
            prompt_format: PromptFormat::default(),
            batch_tokens: 0,
            on_error: OnError::default(),
            max_failed_fraction: 1.0,
            memo_bytes: 256 << 20,
            cache: None,
            memory_limit: 0,
            top_tokens: 8,
            learning_rate: 2e-6,
        }
    }
}

const KEYS: [(&str, &str); 17] = [
    (
        "model",
        "The language model: a directory, a .gguf file, or a URL (s3, gs, az, http, https, hf)",
    ),
    (
        "chat_template",
        "Jinja text or a file's path; overrides the model's chat template",
    ),
    (
        "chat_template_kwargs",
        "JSON object of further names for the chat template, {\"enable_thinking\": false}",
    ),
    (
        "tools_column",
        "The column beside the texts with the tools of the chat template: JSON text or a list",
    ),
    (
        "chat_template_kwargs_column",
        "The column beside the texts with further names for the chat template: JSON text or a struct",
    ),
    ("device", "auto, cpu, cuda, cuda:0 or cuda:0,1"),
    ("dtype", "f32, bf16, f16 or auto: bf16 on a GPU, f32 on CPU"),
    (
        "max_length",
        "Tokens of prompt + response that are kept; 0: the model's limit",
    ),
    (
        "prompt_format",
        "chat, raw or auto: chat where there is a template",
    ),
    (
        "batch_tokens",
        "Tokens that one forward pass computes at most; 0: chosen for the device",
    ),
    (
        "on_error",
        "fail: a row error fails the query; null: its scores are NULL",
    ),
    (
        "max_failed_fraction",
        "With on_error = null, the share of failed rows that ends the job, after 1,000 rows",
    ),
    (
        "memo_bytes",
        "Bytes of scores that are kept in this process, shared by queries; 0: none",
    ),
    (
        "cache",
        "URL or path of a directory of scores that outlives the process",
    ),
    (
        "memory_limit",
        "Bytes for the activations of one forward pass; 0: chosen for the machine",
    ),
    ("top_tokens", "The most tokens that gaining and losing hold"),
    ("learning_rate", "The step of displacement_simulated"),
];

impl ChesSettings {
    /// The settings among a session's options; the defaults where it has none.
    pub fn of(options: &ConfigOptions) -> Self {
        options
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }

    /// Sets one key, given without the prefix.
    ///
    /// # Errors
    /// When the key is unknown, or the value is not one that it accepts. The message names
    /// key, value and what is accepted.
    pub fn set_key(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "model" => self.model = place(key, value)?,
            "chat_template" => self.chat_template = text(value),
            "chat_template_kwargs" => self.chat_template_kwargs = text(value),
            "tools_column" => self.tools_column = text(value),
            "chat_template_kwargs_column" => self.chat_template_kwargs_column = text(value),
            "device" => self.device = device(value)?,
            "dtype" => self.dtype = word(key, value)?,
            "max_length" => self.max_length = number(key, value)?,
            "prompt_format" => self.prompt_format = word(key, value)?,
            "batch_tokens" => self.batch_tokens = number(key, value)?,
            "on_error" => self.on_error = word(key, value)?,
            "max_failed_fraction" => self.max_failed_fraction = fraction(key, value)?,
            "memo_bytes" => self.memo_bytes = number(key, value)?,
            "cache" => self.cache = place(key, value)?,
            "memory_limit" => self.memory_limit = number(key, value)?,
            "top_tokens" => self.top_tokens = number(key, value)?,
            "learning_rate" => self.learning_rate = step(key, value)?,
            _ => {
                let keys = KEYS.map(|(key, _)| key).join(", ");
                return Err(DataFusionError::Configuration(format!(
                    "there is no setting ches.{key}; the settings are {keys}"
                )));
            }
        }
        Ok(())
    }

    fn value(&self, key: &str) -> Option<String> {
        match key {
            "model" => self.model.clone(),
            "chat_template" => self.chat_template.clone(),
            "chat_template_kwargs" => self.chat_template_kwargs.clone(),
            "tools_column" => self.tools_column.clone(),
            "chat_template_kwargs_column" => self.chat_template_kwargs_column.clone(),
            "device" => Some(self.device.clone()),
            "dtype" => Some(self.dtype.word().into()),
            "max_length" => Some(self.max_length.to_string()),
            "prompt_format" => Some(self.prompt_format.word().into()),
            "batch_tokens" => Some(self.batch_tokens.to_string()),
            "on_error" => Some(self.on_error.word().into()),
            "max_failed_fraction" => Some(self.max_failed_fraction.to_string()),
            "memo_bytes" => Some(self.memo_bytes.to_string()),
            "cache" => self.cache.clone(),
            "memory_limit" => Some(self.memory_limit.to_string()),
            "top_tokens" => Some(self.top_tokens.to_string()),
            "learning_rate" => Some(format!("{:e}", self.learning_rate)),
            _ => None,
        }
    }
}

fn refuse<T>(key: &str, value: &str, accepted: impl Display) -> Result<T> {
    Err(DataFusionError::Configuration(format!(
        "ches.{key} cannot be '{value}'; accepted: {accepted}"
    )))
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A path, or a URL that holds no secret: settings are shown, and written beside results.
fn place(key: &str, value: &str) -> Result<Option<String>> {
    let Some((scheme, rest)) = value.split_once("://") else {
        return Ok(text(value));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    // abfss://container@account is no user.
    let is_user =
        |user: &str| user.contains(':') || scheme.to_ascii_lowercase().starts_with("http");
    if user.is_some_and(is_user) || rest.contains('?') {
        let shown = format!("{scheme}://…");
        return refuse(key, &shown, "a URL without user, password and query");
    }
    Ok(text(value))
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T> {
    value
        .trim()
        .parse()
        .or_else(|_| refuse(key, value, "a whole number from 0"))
}

/// A step by which f32 weights can move.
fn step(key: &str, value: &str) -> Result<f64> {
    let is_step = |step: &f64| (*step as f32).is_normal() && (0.0..=1.0).contains(step);
    let step = value.trim().parse().ok().filter(is_step);
    let accepted = "a number above 0 and at most 1, such as 2e-6";
    step.map_or_else(|| refuse(key, value, accepted), Ok)
}

fn fraction(key: &str, value: &str) -> Result<f64> {
    let parsed = value.trim().parse().ok();
    let fraction = parsed.filter(|of: &f64| (0.0..=1.0).contains(of));
    fraction.map_or_else(|| refuse(key, value, "a number from 0 to 1"), Ok)
}

fn word<T: Keyword>(key: &str, value: &str) -> Result<T> {
    T::WORDS
        .iter()
        .find_map(|(word, of)| word.eq_ignore_ascii_case(value.trim()).then_some(*of))
        .map_or_else(
            || {
                let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
                refuse(key, value, words.join(", "))
            },
            Ok,
        )
}

fn device(value: &str) -> Result<String> {
    let device = value.trim().to_ascii_lowercase();
    let is_ordinals = |list: &str| {
        list.split(',')
            .all(|ordinal| ordinal.parse::<usize>().is_ok())
    };
    // Those that are not told of: `cpu-tensors` is for tests, and nobody has run `metal` yet.
    let accepted = matches!(
        device.as_str(),
        "auto" | "cpu" | "cuda" | "cpu-tensors" | "metal"
    ) || device.strip_prefix("cuda:").is_some_and(is_ordinals);
    if accepted {
        Ok(device)
    } else {
        refuse("device", value, "auto, cpu, cuda, cuda:0 or cuda:0,1")
    }
}

impl ConfigExtension for ChesSettings {
    const PREFIX: &'static str = "ches";
}

// Written by hand: `extensions_options!` gives entries bare keys, with which `SHOW ches.model`
// fails and a setting does not reach another process.
impl ExtensionOptions for ChesSettings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.set_key(key.strip_prefix("ches.").unwrap_or(key), value)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        KEYS.into_iter()
            .map(|(key, description)| ConfigEntry {
                key: format!("ches.{key}"),
                value: self.value(key),
                description,
            })
            .collect()
    }
}
