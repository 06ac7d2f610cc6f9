//! The special tokens that a model directory names, as transformers finds them
//! (`PreTrainedTokenizerBase` of `tokenization_utils_base.py`, version 5.24).

use serde_json::{Map, Value};

use crate::files::tokenizer_class::TokenizerClass;

/// The names that every tokenizer of transformers knows.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Names of special tokens with their texts, in order. A name that nothing sets is not there.
pub(crate) type NamedTokens = Vec<(String, String)>;

/// The special tokens that `tokenizer_config.json` names, with `special_tokens_map.json` where that
/// one has no `added_tokens_decoder`, and with the class's own where a key is absent. `padding`: what
/// `tokenizer.json` pads by.
///
/// # Errors
/// When one of the common names has a value that is no token; transformers refuses that too.
pub(crate) fn named_tokens(
    config: &Map<String, Value>,
    map: Option<&Map<String, Value>>,
    class: TokenizerClass,
    padding: Option<&str>,
) -> Result<NamedTokens, String> {
    let map = of_older_versions(config, map);
    let mut named = Vec::new();
    for name in NAMES {
        let found = match (map.and_then(|map| map.get(name)), config.get(name)) {
            // Objects of the map need no type.
            (Some(value), _) => value.get("content").or(Some(value)),
            (None, Some(value)) => Some(typed(value).unwrap_or(value)),
            (None, None) => None,
        };
        match found {
            Some(Value::String(text)) => named.push((name.to_owned(), text.clone())),
            Some(Value::Null) => {}
            Some(other) => {
                return Err(format!(
                    "{name} is {other}; accepted: a text, an object with \"__type\": \
                     \"AddedToken\" and its content, or null"
                ));
            }
            None => {
                let padding = padding.filter(|_| name == "pad_token");
                let own = class.special_token(name).or(padding);
                named.extend(own.map(|text| (name.to_owned(), text.to_owned())));
            }
        }
    }
    let mut others = Vec::new();
    let is_other = |name: &str| name.ends_with("_token") && !NAMES.contains(&name);
    let of_config = config
        .iter()
        .map(|(name, value)| (name, typed(value).unwrap_or(value)));
    let of_map = map.into_iter().flatten();
    let of_map = of_map.map(|(name, value)| (name, value.get("content").unwrap_or(value)));
    for (name, value) in of_config.chain(of_map).filter(|(name, _)| is_other(name)) {
        if let Value::String(text) = value {
            others.push((name.clone(), text.clone()));
        }
    }
    let extra = config
        .get("extra_special_tokens")
        .and_then(Value::as_object);
    let has_others = extra.is_some() || !others.is_empty();
    let specific = config
        .get("model_specific_special_tokens")
        .and_then(Value::as_object)
        .filter(|_| !has_others);
    let of_map = map.and_then(|map| map.get("extra_special_tokens"));
    let of_map = of_map.and_then(Value::as_object);
    for (name, value) in [extra, specific, of_map].into_iter().flatten().flatten() {
        match value.get("content").unwrap_or(value) {
            Value::String(text) => others.push((name.clone(), text.clone())),
            other => {
                return Err(format!(
                    "the special token {name} is {other}; accepted: a text"
                ));
            }
        }
    }
    for (name, text) in others {
        match named.iter_mut().find(|(before, _)| *before == name) {
            Some((_, before)) => *before = text,
            None => named.push((name, text)),
        }
    }
    let place = |name: &str| NAMES.iter().position(|of| *of == name);
    named.sort_by_key(|(name, _)| place(name).unwrap_or(NAMES.len()));
    Ok(named)
}

/// The special tokens that have no name: the lists `extra_special_tokens` and, before version 5,
/// `additional_special_tokens`.
pub(crate) fn unnamed_tokens(
    config: &Map<String, Value>,
    map: Option<&Map<String, Value>>,
) -> Vec<String> {
    const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];
    let list = |of: &Map<String, Value>, name: &str| -> Vec<String> {
        let items = of.get(name).and_then(Value::as_array).into_iter().flatten();
        let texts = items.filter_map(|item| item.get("content").unwrap_or(item).as_str());
        texts.map(str::to_owned).collect()
    };
    let is_set = |name: &str| match config.get(name) {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(named)) => !named.is_empty(),
        _ => false,
    };
    let of_config = LISTS.into_iter().find(|name| is_set(name));
    let mut texts = of_config.map_or_else(Vec::new, |name| list(config, name));
    if let Some(map) = of_older_versions(config, map) {
        texts.extend(list(map, LISTS[0]));
        if of_config.is_none() && !map.contains_key(LISTS[0]) {
            texts.extend(list(map, LISTS[1]));
        }
    }
    texts
}

/// `special_tokens_map.json` where it counts.
fn of_older_versions<'a>(
    config: &Map<String, Value>,
    map: Option<&'a Map<String, Value>>,
) -> Option<&'a Map<String, Value>> {
    map.filter(|_| !config.contains_key("added_tokens_decoder"))
}

/// The text of an object that says that it is a token.
fn typed(value: &Value) -> Option<&Value> {
    let is_token = value.get("__type")? == "AddedToken";
    is_token.then(|| value.get("content")).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(config: Value, map: Option<Value>, class: TokenizerClass) -> Result<Value, String> {
        let map = map.as_ref().and_then(Value::as_object);
        let named = named_tokens(config.as_object().unwrap(), map, class, None)?;
        Ok(Value::Object(
            named.into_iter().map(|(k, v)| (k, v.into())).collect(),
        ))
    }

    /// Each is what `AutoTokenizer` of transformers 5.24.0 gives as `special_tokens_map`.
    #[test]
    fn names_are_what_transformers_finds() {
        let generic = TokenizerClass::Generic;
        let token = json!({"__type": "AddedToken", "content": "<x>"});
        let cases = [
            (json!({}), None, generic, json!({})),
            (
                json!({}),
                None,
                TokenizerClass::Llama,
                json!({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
            ),
            (
                json!({"bos_token": null, "eos_token": ""}),
                None,
                TokenizerClass::Llama,
                json!({"unk_token": "<unk>", "eos_token": ""}),
            ),
            (
                json!({"bos_token": token, "image_token": "<i>", "video_token": {"content": "<v>"}}),
                None,
                generic,
                json!({"bos_token": "<x>", "image_token": "<i>"}),
            ),
            (
                json!({"bos_token": "<a>"}),
                Some(json!({"bos_token": {"content": "<b>"}, "eos_token": "<e>"})),
                generic,
                json!({"bos_token": "<b>", "eos_token": "<e>"}),
            ),
            (
                json!({"bos_token": "<a>", "added_tokens_decoder": {}}),
                Some(json!({"bos_token": "<b>", "eos_token": "<e>"})),
                generic,
                json!({"bos_token": "<a>"}),
            ),
            (
                json!({"extra_special_tokens": {"image_token": "<i>", "bos_token": "<b>"}}),
                None,
                generic,
                json!({"image_token": "<i>", "bos_token": "<b>"}),
            ),
            (
                json!({"additional_special_tokens": ["<p>"]}),
                None,
                generic,
                json!({}),
            ),
            (
                json!({"image_token": "<i>"}),
                Some(json!({"image_token": {"content": "<j>"}, "foo_token": "<f>"})),
                generic,
                json!({"image_token": "<j>", "foo_token": "<f>"}),
            ),
        ];
        for (config, map, class, expected) in cases {
            let shown = format!("{config} {map:?}");
            assert_eq!(named(config, map, class), Ok(expected), "{shown}");
        }
        for wrong in [
            json!({"content": "<s>"}),
            json!(1),
            json!(true),
            json!(["<s>"]),
        ] {
            let refused = named(json!({"bos_token": wrong}), None, generic).unwrap_err();
            assert!(refused.starts_with("bos_token is "), "{refused}");
        }
    }
}
