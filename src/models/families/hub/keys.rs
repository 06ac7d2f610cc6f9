//! The keys of a `config.json`: which of those that transformers declares for a type are
//! implemented, which change no score, and which must be as they are by default.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What transformers declares, as `tests/goldens/make_config_keys.py` writes it.
#[derive(Deserialize)]
struct Table {
    /// The keys of each type with their defaults.
    types: HashMap<String, Map<String, Value>>,
}

static DECLARED: LazyLock<Table> = LazyLock::new(|| {
    let table = serde_json::from_str(include_str!("declared_keys.json"));
    table.expect("declared_keys.json is what its script writes")
});

/// Keys of some types.
struct Keys {
    /// The keys.
    keys: &'static [&'static str],
    /// The values of `model_type`; all if empty.
    types: &'static [&'static str],
}

impl Keys {
    fn hold(&self, key: &str, model_type: &str) -> bool {
        let is_of_type = self.types.is_empty() || self.types.contains(&model_type);
        is_of_type && self.keys.contains(&key)
    }
}

/// The keys that a decoder is made of. What they may be is checked where they are used.
const IMPLEMENTED: [Keys; 11] = [
    Keys {
        keys: &[
            "hidden_size",
            "intermediate_size",
            "max_position_embeddings",
            "model_type",
            "num_attention_heads",
            "num_hidden_layers",
            "original_max_position_embeddings",
            "rope_parameters",
            "rope_scaling",
            "tie_word_embeddings",
            "vocab_size",
            "head_dim",
        ],
        types: &[],
    },
    Keys {
        keys: &["num_key_value_heads", "rope_theta"],
        types: &[
            "llama",
            "olmo",
            "gemma",
            "qwen2",
            "qwen3",
            "mistral",
            "gemma2",
            "olmo2",
            "phi3",
            "gemma3_text",
            "smollm3",
        ],
    },
    Keys {
        keys: &["rms_norm_eps"],
        types: &[
            "llama",
            "gemma",
            "qwen2",
            "qwen3",
            "mistral",
            "gemma2",
            "olmo2",
            "phi3",
            "gemma3_text",
            "smollm3",
        ],
    },
    Keys {
        keys: &["hidden_act"],
        types: &[
            "llama", "olmo", "gemma", "qwen2", "qwen3", "mistral", "olmo2", "phi3", "smollm3",
            "gpt_neox",
        ],
    },
    Keys {
        keys: &[
            "hidden_activation",
            "query_pre_attn_scalar",
            "final_logit_softcapping",
        ],
        types: &["gemma2", "gemma3_text"],
    },
    Keys {
        keys: &["layer_types"],
        types: &[
            "qwen2",
            "qwen3",
            "smollm3",
            "mistral",
            "gemma2",
            "gemma3_text",
        ],
    },
    Keys {
        keys: &["sliding_window"],
        types: &["mistral", "gemma2", "phi3", "gemma3_text"],
    },
    Keys {
        keys: &["attn_logit_softcapping"],
        types: &["gemma2"],
    },
    Keys {
        keys: &["rope_local_base_freq", "sliding_window_pattern"],
        types: &["gemma3_text"],
    },
    Keys {
        keys: &["no_rope_layers", "no_rope_layer_interval"],
        types: &["smollm3"],
    },
    Keys {
        keys: &[
            "layer_norm_eps",
            "rotary_emb_base",
            "rotary_pct",
            "use_parallel_residual",
        ],
        types: &["gpt_neox"],
    },
];

/// The same of one type alone.
const IMPLEMENTED_OF_ONE: [(&str, &str); 2] =
    [("olmo", "clip_qkv"), ("phi3", "partial_rotary_factor")];

/// Declared keys that change no score, and why.
const NO_SCORE: [(&str, &str); 36] = [
    ("_attn_implementation", "which kernel computes attention"),
    ("_commit_hash", "where the file came from"),
    ("_experts_implementation", "these types have no experts"),
    (
        "allow_global_per_layer_attribute_access",
        "what an access to a configuration warns of",
    ),
    ("attention_dropout", "training only"),
    ("attn_implementation", "which kernel computes attention"),
    (
        "attn_logit_softcapping",
        "gemma3_text: declared and never handed to attention",
    ),
    ("auto_map", "code beside the model, which is not run"),
    ("bos_token_id", "the tokenizer says what a text begins with"),
    ("chunk_size_feed_forward", "no code of these types reads it"),
    ("classifier_dropout", "of another head, and training only"),
    ("dtype", "the stored tensors say what type they have"),
    ("embd_pdrop", "training only"),
    (
        "eos_token_id",
        "read where the tokenizer's configuration names none",
    ),
    ("experts_implementation", "these types have no experts"),
    ("gradient_checkpointing", "memory in training"),
    ("hidden_dropout", "training only"),
    ("id2label", "of heads that classify"),
    ("initializer_range", "initialisation"),
    ("is_decoder", "no code of GPT-NeoX reads it"),
    ("label2id", "of heads that classify"),
    (
        "max_window_layers",
        "counts only with use_sliding_window, which is refused",
    ),
    ("name_or_path", "where the file came from"),
    ("num_labels", "of heads that classify"),
    ("output_attentions", "what is returned besides"),
    ("output_hidden_states", "what is returned besides"),
    (
        "pad_token_id",
        "gradient of the padding's embedding; nothing is padded here",
    ),
    ("pretraining_tp", "no code reads it any more"),
    ("problem_type", "loss of heads that classify"),
    ("resid_pdrop", "training only"),
    ("return_dict", "the shape of what is returned"),
    (
        "serialize_explicit_per_layer_config",
        "how a file is written",
    ),
    (
        "sliding_window",
        "counts only with use_sliding_window, which is refused",
    ),
    ("torch_dtype", "what dtype was called first"),
    ("transformers_version", "who wrote the file"),
    ("use_cache", "caching"),
];

/// Undeclared keys that are in many files and say nothing: what no type but others reads, what
/// older versions wrote besides, and what only generation reads.
const NO_WARNING: [Keys; 5] = [
    // Refused elsewhere unless they switch nothing on.
    Keys {
        keys: &[
            "attention_bias",
            "clip_qkv",
            "mlp_bias",
            "partial_rotary_factor",
            "use_bidirectional_attention",
            "use_sliding_window",
        ],
        types: &[],
    },
    Keys {
        keys: &[
            "_name_or_path",
            "_sliding_window_pattern",
            "cache_implementation",
            "classifier_dropout",
            "embd_pdrop",
            "hidden_dropout",
            "is_decoder",
            "is_llama_config",
            "max_window_layers",
            "pretraining_tp",
            "resid_pdrop",
            "rope_interleaved",
            "tokenizer_class",
            "torchscript",
            "unsloth_version",
            "use_bfloat16",
        ],
        types: &[],
    },
    Keys {
        keys: &["hidden_act", "hidden_activation"],
        types: &["gemma", "gemma2", "gemma3_text"],
    },
    Keys {
        keys: &["rope_theta"],
        types: &["gpt_neox"],
    },
    Keys {
        keys: &[
            "max_length",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "bad_words_ids",
            "num_return_sequences",
            "output_scores",
            "return_dict_in_generate",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "remove_invalid_values",
            "exponential_decay_length_penalty",
            "suppress_tokens",
            "begin_suppress_tokens",
            "epsilon_cutoff",
            "eta_cutoff",
            "encoder_repetition_penalty",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "target_lookbehind",
            "num_beam_groups",
            "diversity_penalty",
        ],
        types: &[],
    },
];

/// What a declared key may be besides its default and null.
fn also_accepted(key: &str) -> Option<Value> {
    match key {
        "per_layer_config" => Some(json!({})),
        "tie_last_hidden_states" => Some(json!(true)),
        "use_bidirectional_attention" => Some(json!(false)),
        _ => None,
    }
}

/// The default of a key that transformers declares for a type.
pub(super) fn default_of(model_type: &str, key: &str) -> Option<&'static Value> {
    DECLARED.types.get(model_type)?.get(key)
}

/// Looks at every key. Those that transformers does not know, and that are not in every other
/// file, are returned.
///
/// # Errors
/// When a declared key that is not implemented is not at its default, unless it changes no score.
pub(super) fn check(config: &Map<String, Value>, model_type: &str) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    for (key, value) in config {
        let Some(default) = default_of(model_type, key) else {
            // Nothing written is nothing ignored.
            let is_quiet =
                value.is_null() || NO_WARNING.iter().any(|keys| keys.hold(key, model_type));
            if !is_quiet {
                unknown.push(key.clone());
            }
            continue;
        };
        let accepted = if key == "architectures" {
            match value {
                Value::Null => None,
                Value::Array(names) if names.iter().all(is_language_model) => None,
                _ => Some("names that end in ForCausalLM".into()),
            }
        } else if changes_no_score(key) || is_implemented(key, model_type) {
            None
        } else {
            is_unlike_default(key, value, default)
        };
        if let Some(accepted) = accepted {
            return Err(format!(
                "config.json has `{key}` {}, which is not implemented for model_type \
                 '{model_type}'; accepted: {accepted}",
                short(&value.to_string())
            ));
        }
    }
    Ok(unknown)
}

fn is_implemented(key: &str, model_type: &str) -> bool {
    IMPLEMENTED.iter().any(|keys| keys.hold(key, model_type))
        || IMPLEMENTED_OF_ONE.contains(&(model_type, key))
}

/// Whether a declared key that is not implemented changes no score.
fn changes_no_score(key: &str) -> bool {
    NO_SCORE.iter().any(|(name, _)| *name == key)
}

fn is_language_model(name: &Value) -> bool {
    name.as_str()
        .is_some_and(|name| name.ends_with("ForCausalLM"))
}

/// What would be accepted, unless the value is.
fn is_unlike_default(key: &str, value: &Value, default: &Value) -> Option<String> {
    let also = also_accepted(key);
    // Null is what is not written, but for this one, where it is false if there is a window.
    let is_nothing = value.is_null() && key != "is_causal";
    let mut accepted = also.iter().chain([default]);
    if is_nothing || accepted.any(|accepted| are_equal(accepted, value)) {
        return None;
    }
    let accepted = [default].into_iter().chain(&also);
    let accepted: Vec<String> = accepted.map(Value::to_string).collect();
    Some(accepted.join(", "))
}

/// Whether two values are the same, numbers by what they are and not by how they are written.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A text of a file, fit for a message.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 80;
    let shown: String = text.chars().take(MOST).collect();
    let rest = if shown.len() < text.len() { "…" } else { "" };
    let shown: String = shown
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    shown + rest
}

/// The first names of a list, and how many others there are.
pub(super) fn few<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 8;
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(MOST).map(|name| short(name)).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        others => format!("{shown} and {others} others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(model_type: &str, config: &Value) -> Result<Vec<String>, String> {
        check(config.as_object().unwrap(), model_type)
    }

    /// Each declared key is implemented, changes no score, or has a default to compare with.
    #[test]
    fn every_declared_key_has_a_class() {
        let families = super::super::model_types();
        assert_eq!(DECLARED.types.len(), families.len());
        for model_type in families {
            for (key, default) in &DECLARED.types[model_type] {
                let is_computed = default.get("computed").is_some();
                let is_known = is_implemented(key, model_type) || changes_no_score(key);
                assert!(is_known || !is_computed, "{model_type}: {key}");
            }
            let mut defaults = DECLARED.types[model_type].clone();
            defaults.retain(|_, default| default.get("computed").is_none());
            assert_eq!(check(&defaults, model_type), Ok(vec![]), "{model_type}");
        }
        let of_one = IMPLEMENTED_OF_ONE.iter();
        let mut implemented: Vec<_> = of_one.map(|(of, key)| (vec![*of], vec![*key])).collect();
        for keys in &IMPLEMENTED {
            implemented.push((keys.types.to_vec(), keys.keys.to_vec()));
        }
        for (types, keys) in implemented {
            for key in keys {
                let mut types = types.iter();
                assert!(types.all(|of| default_of(of, key).is_some()), "{key}");
            }
        }
    }

    #[test]
    fn what_is_refused_and_what_is_warned_of() {
        let refused = [
            ("llama", json!({"partial_rotary_factor": 0.5})),
            ("llama", json!({"is_causal": false})),
            ("phi3", json!({"is_causal": null})),
            ("gemma", json!({"use_bidirectional_attention": true})),
            ("gpt_neox", json!({"attention_bias": false})),
            (
                "qwen2",
                json!({"quantization_config": {"quant_method": "fp8"}}),
            ),
            ("qwen3", json!({"per_layer_config": {"0": {}}})),
            (
                "llama",
                json!({"architectures": ["LlamaForSequenceClassification"]}),
            ),
            ("olmo", json!({"tie_last_hidden_states": false})),
            ("olmo2", json!({"text_config": {}})),
        ];
        for (model_type, config) in refused {
            let error = checked(model_type, &config).expect_err(model_type);
            let key = config.as_object().unwrap().keys().next().unwrap();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
        assert_eq!(
            checked("llama", &json!({"partial_rotary_factor": 0.5})).unwrap_err(),
            "config.json has `partial_rotary_factor` 0.5, which is not implemented for model_type \
             'llama'; accepted: 1.0"
        );
        let accepted = [
            (
                json!({"partial_rotary_factor": 1, "per_layer_config": {}, "top_p": 0.9}),
                vec![],
            ),
            (json!({"sliding_window": null, "dtype": "bfloat16"}), vec![]),
            (json!({"sliding_window": 9}), vec!["sliding_window".into()]),
            (
                json!({"attn_logit_softcapping": 9}),
                vec!["attn_logit_softcapping".into()],
            ),
            (json!({"added": 1}), vec!["added".to_owned()]),
        ];
        for (config, unknown) in accepted {
            assert_eq!(checked("llama", &config), Ok(unknown), "{config}");
        }
    }
}
