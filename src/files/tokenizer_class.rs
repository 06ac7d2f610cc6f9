//! Which tokenizer class transformers makes of a model directory, and what that class puts in place
//! of what `tokenizer.json` says (`models/auto/tokenization_auto.py`, version 5.24).

use serde_json::{Map, Value, json};

/// A tokenizer class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerClass {
    /// `TokenizersBackend` (`PreTrainedTokenizerFast`): `tokenizer.json` as it is.
    Generic,
    Llama,
    Qwen2,
    Gpt2,
    GptNeoX,
    Gemma,
}

/// What splits the words of Qwen2.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl TokenizerClass {
    /// The class of a directory: by the class that it declares, if it does, and its model type.
    ///
    /// # Errors
    /// When the class rebuilds a tokenizer in a way that is not known here.
    pub fn of(declared: Option<&str>, model_type: &str, tokenizer: &[u8]) -> Result<Self, String> {
        let declared = declared.filter(|name| !name.is_empty());
        let bare = declared.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let mapped = match model_type {
            "olmo" | "gpt_neox" => Some(Self::GptNeoX),
            "gemma" | "gemma2" | "gemma3_text" => Some(Self::Gemma),
            "qwen2" | "qwen3" => Some(Self::Qwen2),
            "mistral" | "olmo2" | "phi3" => Some(Self::Generic),
            _ => None,
        };
        let is_forced = model_type == "qwen2";
        let is_byte_level = || {
            const MARK: &[u8] = b"\"ByteLevel\"";
            tokenizer.windows(MARK.len()).any(|part| part == MARK)
        };
        Ok(match (bare, mapped) {
            (Some("LlamaTokenizer"), _)
                if !["qwen2", "phi3"].contains(&model_type) && is_byte_level() =>
            {
                Self::Generic
            }
            (None, mapped) => mapped.unwrap_or(Self::Generic),
            (Some(_), Some(mapped)) if is_forced || mapped == Self::Generic => mapped,
            (Some(name), _) => Self::named(name)?,
        })
    }

    fn named(name: &str) -> Result<Self, String> {
        // These rebuild the tokenizer too, each in its own way.
        const OTHERS: [&str; 24] = [
            "Albert",
            "Barthez",
            "Bert",
            "BigBird",
            "Camembert",
            "CodeGen",
            "CodeLlama",
            "Cohere",
            "Deberta",
            "DebertaV2",
            "DistilBert",
            "Funnel",
            "MBart",
            "MPNet",
            "Nllb",
            "OpenAIGPT",
            "Pegasus",
            "RemBert",
            "Roberta",
            "T5",
            "Whisper",
            "XGLM",
            "XLMRoberta",
            "XLNet",
        ];
        let other = name.strip_suffix("Tokenizer");
        if other.is_some_and(|other| OTHERS.contains(&other)) {
            return Err(format!(
                "tokenizer_class is '{name}', which builds a tokenizer of its own; accepted: \
                 TokenizersBackend (PreTrainedTokenizerFast), Llama, Qwen2, GPT2, GPTNeoX or \
                 GemmaTokenizer"
            ));
        }
        Ok(match name {
            "LlamaTokenizer" => Self::Llama,
            "Qwen2Tokenizer" => Self::Qwen2,
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "GemmaTokenizer" => Self::Gemma,
            _ => Self::Generic,
        })
    }

    /// The name that transformers has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "TokenizersBackend",
            Self::Llama => "LlamaTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Gemma => "GemmaTokenizer",
        }
    }

    /// The text of a special token that a directory need not name.
    pub fn special_token(self, name: &str) -> Option<&'static str> {
        const END: &str = "<|endoftext|>";
        match (self, name) {
            (Self::Llama, "unk_token") | (Self::Gemma, "unk_token") => Some("<unk>"),
            (Self::Llama, "bos_token") => Some("<s>"),
            (Self::Llama, "eos_token") => Some("</s>"),
            (Self::Gemma, "bos_token") => Some("<bos>"),
            (Self::Gemma, "eos_token") => Some("<eos>"),
            (Self::Gemma, "pad_token") => Some("<pad>"),
            (Self::Gemma, "mask_token") => Some("<mask>"),
            (Self::Qwen2, "unk_token" | "eos_token" | "pad_token") => Some(END),
            (Self::Gpt2 | Self::GptNeoX, "unk_token" | "bos_token" | "eos_token") => Some(END),
            (Self::GptNeoX, "pad_token") => Some("<|padding|>"),
            _ => None,
        }
    }

    /// The parts of `tokenizer.json` that this class replaces by others.
    ///
    /// transformers keeps vocabulary, merges and post-processor (GPTNeoXTokenizer not that) and sets
    /// the rest, so that a file whose parts are others is tokenized in another way there.
    pub fn replaced_parts(
        self,
        tokenizer: &Value,
        config: &Map<String, Value>,
    ) -> Vec<&'static str> {
        let prefix = config.get("add_prefix_space");
        let adds_prefix = prefix.and_then(Value::as_bool);
        let byte_level = |uses_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": adds_prefix.unwrap_or(false),
                "use_regex": uses_regex,
            })
        };
        let (normalizer, pre_tokenizer) = match self {
            Self::Generic => return Vec::new(),
            Self::Qwen2 => {
                let split = json!({
                    "type": "Split",
                    "pattern": {"Regex": QWEN2_WORDS},
                    "behavior": "Isolated",
                    "invert": false,
                });
                (json!({"type": "NFC"}), json!([split, byte_level(false)]))
            }
            Self::GptNeoX => (json!({"type": "NFC"}), byte_level(true)),
            Self::Gpt2 => (Value::Null, byte_level(true)),
            Self::Gemma => (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({
                    "type": "Split",
                    "pattern": {"String": " "},
                    "behavior": "MergedWithPrevious",
                    "invert": false,
                }),
            ),
            Self::Llama => {
                let is_legacy = config.get("legacy").and_then(Value::as_bool) == Some(true);
                let scheme = match (adds_prefix, is_legacy) {
                    (Some(false), _) => "never",
                    (_, true) => "always",
                    _ => "first",
                };
                let metaspace = json!({
                    "type": "Metaspace",
                    "replacement": "▁",
                    "prepend_scheme": scheme,
                    "split": false,
                });
                (Value::Null, metaspace)
            }
        };
        let mut replaced = Vec::new();
        if plain(&tokenizer["normalizer"], "normalizers") != plain(&normalizer, "normalizers") {
            replaced.push("normalizer");
        }
        let found = plain(&tokenizer["pre_tokenizer"], "pretokenizers");
        // The normalizer of Gemma leaves no space to split at.
        let is_without_effect = self == Self::Gemma && found.is_null();
        if found != plain(&pre_tokenizer, "pretokenizers") && !is_without_effect {
            replaced.push("pre_tokenizer");
        }
        if tokenizer["model"]["ignore_merges"] == true {
            replaced.push("model.ignore_merges");
        }
        let falls_back = matches!(self, Self::Llama | Self::Gemma);
        if tokenizer["model"]["byte_fallback"]
            .as_bool()
            .unwrap_or(false)
            != falls_back
        {
            replaced.push("model.byte_fallback");
        }
        replaced
    }
}

/// A part without what changes no tokens: what is not set or has its default, and a sequence of one.
fn plain(part: &Value, items: &str) -> Value {
    let part = match part["type"] == "Sequence" {
        true => &part[items],
        false => part,
    };
    match part {
        Value::Array(parts) => {
            let mut parts: Vec<Value> = parts.iter().map(|part| plain(part, items)).collect();
            match parts.len() {
                0 => Value::Null,
                1 => parts.remove(0),
                _ => Value::Array(parts),
            }
        }
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let kind = fields["type"].clone();
            let defaults = match kind.as_str() {
                Some("ByteLevel") => {
                    fields.remove("trim_offsets");
                    vec![
                        ("add_prefix_space", json!(true)),
                        ("use_regex", json!(true)),
                    ]
                }
                Some("Metaspace") => {
                    fields.remove("add_prefix_space");
                    fields.remove("str_rep");
                    vec![("prepend_scheme", json!("always")), ("split", json!(true))]
                }
                Some("Split") => vec![("invert", json!(false))],
                _ => Vec::new(),
            };
            for (name, value) in defaults {
                fields.entry(name).or_insert(value);
            }
            Value::Object(fields)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_transformers() {
        let of = |declared, model_type, text: &str| {
            TokenizerClass::of(declared, model_type, text.as_bytes()).map(TokenizerClass::name)
        };
        let byte_level = r#"{"type": "ByteLevel"}"#;
        for (declared, model_type, text, expected) in [
            (None, "llama", "", "TokenizersBackend"),
            (None, "olmo", "", "GPTNeoXTokenizer"),
            (None, "gemma2", "", "GemmaTokenizer"),
            (None, "qwen3", "", "Qwen2Tokenizer"),
            (
                Some("PreTrainedTokenizerFast"),
                "qwen3",
                "",
                "TokenizersBackend",
            ),
            (
                Some("PreTrainedTokenizerFast"),
                "qwen2",
                "",
                "Qwen2Tokenizer",
            ),
            (
                Some("LlamaTokenizerFast"),
                "qwen2",
                byte_level,
                "Qwen2Tokenizer",
            ),
            (
                Some("LlamaTokenizerFast"),
                "llama",
                byte_level,
                "TokenizersBackend",
            ),
            (Some("LlamaTokenizerFast"), "llama", "", "LlamaTokenizer"),
            (Some("LlamaTokenizer"), "mistral", "", "TokenizersBackend"),
            (Some("GPT2Tokenizer"), "llama", byte_level, "GPT2Tokenizer"),
            (Some("AnyOther"), "gemma", "", "TokenizersBackend"),
            (Some(""), "gpt_neox", "", "GPTNeoXTokenizer"),
        ] {
            assert_eq!(
                of(declared, model_type, text),
                Ok(expected),
                "{declared:?} {model_type}"
            );
        }
        assert!(of(Some("CohereTokenizerFast"), "llama", "").is_err());
    }

    #[test]
    fn replaced_parts_are_named() {
        let stock = json!({
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated"},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
            ]},
            "model": {"ignore_merges": false},
        });
        let replaced =
            |tokenizer: &Value, class: TokenizerClass| class.replaced_parts(tokenizer, &Map::new());
        assert!(replaced(&stock, TokenizerClass::Qwen2).is_empty());
        assert!(replaced(&stock, TokenizerClass::Generic).is_empty());
        let mut other = stock.clone();
        other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\p{N}{1,3}");
        assert_eq!(replaced(&other, TokenizerClass::Qwen2), ["pre_tokenizer"]);
        other["normalizer"] = Value::Null;
        other["model"]["ignore_merges"] = json!(true);
        let all = ["normalizer", "pre_tokenizer", "model.ignore_merges"];
        assert_eq!(replaced(&other, TokenizerClass::Qwen2), all);
    }
}
