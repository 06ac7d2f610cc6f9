//! From text to token ids.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::files::error::ModelError;
use crate::files::memory;
use crate::files::model_directory::ModelDirectory;
use crate::files::special_tokens::NamedTokens;
use crate::files::tokenizer_class::TokenizerClass;
use crate::files::tokenizer_files::TokenizerFiles;

/// Whether memory suffices is looked at for texts of more bytes.
const LARGE_BYTES: usize = 4 << 20;

/// What tokenizing takes for each byte of a text: the tokenizers crate keeps words, offsets and both
/// alignments of all of it. Measured: 200.
const TOKENIZING_BYTES: u64 = 256;

/// A model's tokenizer with what the contract of a text needs to know of it.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Texts of the tokens that may end a turn, with their ids: special ones, and in a GGUF file what
    /// looks like one.
    special: Vec<(String, u32)>,
    ends: Ends,
}

/// What stands at both ends of texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    /// What the tokenizer puts before a text: BOS, if it adds one.
    pub begin: Vec<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The special tokens that templates may write by a name.
    pub named: NamedTokens,
}

impl TextTokenizer {
    /// A tokenizer whose special tokens are these, texts with ids.
    pub(crate) fn new(tokenizer: Tokenizer, special: Vec<(String, u32)>, ends: Ends) -> Self {
        Self {
            tokenizer,
            special,
            ends,
        }
    }

    /// The tokenizer of a model directory.
    ///
    /// # Errors
    /// When `tokenizer.json` is not one, or a special token is named that it does not have.
    pub(crate) fn from_directory(directory: &ModelDirectory) -> Result<Self, ModelError> {
        let failed =
            |error: tokenizers::Error| directory.refuse(format!("tokenizer.json: {error}"));
        let files = &directory.tokenizer_files;
        let syntax: Result<AddedTokens, _> = serde_json::from_slice(&directory.tokenizer);
        let own = syntax.map_err(|error| directory.refuse(format!("tokenizer.json: {error}")))?;
        let bytes = match with_added_tokens(&directory.tokenizer, own.added_tokens, files) {
            Ok(changed) => changed,
            Err(reason) => return Err(directory.refuse(reason)),
        };
        let bytes = bytes.as_deref().unwrap_or(&directory.tokenizer);
        let read = || Tokenizer::from_bytes(bytes);
        let mut tokenizer = unpanicked(read)
            .map_err(|reason| directory.refuse(format!("tokenizer.json: {reason}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        add_tokens(&mut tokenizer, files).map_err(failed)?;
        if files.class != TokenizerClass::Generic {
            warn_of_replaced_parts(directory);
        }
        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<(String, u32)> = added
            .iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content.clone(), *id))
            .collect();
        special.sort_by_key(|(_, id)| *id);
        let eos = files.named("eos_token");
        let eos = eos.and_then(|text| tokenizer.token_to_id(text));
        let of_config = directory.end_of_sequence();
        let of_config = of_config.filter(|id| tokenizer.id_to_token(*id).is_some());
        let begin = begin(&tokenizer);
        let begin =
            begin.map_err(|reason| directory.refuse(format!("tokenizer.json: {reason}")))?;
        let ends = Ends {
            begin,
            eos: eos.or(of_config),
            named: files.named.clone(),
        };
        Ok(Self::new(tokenizer, special, ends))
    }

    /// The ids of a text; special tokens that are written out in it are taken as such.
    /// `begin` asks for the tokenizer's own BOS, if it adds one.
    ///
    /// # Errors
    /// When the text cannot be tokenized, or takes more memory for it than there is.
    pub(crate) fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>, String> {
        if text.len() > LARGE_BYTES {
            refuse_above(text.len(), memory::available() / 2)?;
        }
        let encoding = unpanicked(|| self.tokenizer.encode_fast(text, false))
            .map_err(|reason| format!("the text cannot be tokenized: {reason}"))?;
        let begin: &[u32] = if begin { &self.ends.begin } else { &[] };
        Ok([begin, encoding.get_ids()].concat())
    }

    /// The first special token that is written out in `text`, with its position.
    pub(crate) fn first_special(&self, text: &str) -> Option<(usize, &str, u32)> {
        self.special
            .iter()
            .filter_map(|(token, id)| Some((text.find(token.as_str())?, token.as_str(), *id)))
            .min_by_key(|(at, token, _)| (*at, std::cmp::Reverse(token.len())))
    }

    /// The text of one token, as it is within a text: decoders take a space off a text's beginning.
    pub(crate) fn token_text(&self, id: u32) -> String {
        let decode = |ids: &[u32]| unpanicked(|| self.tokenizer.decode(ids, false)).ok();
        let decoded = || {
            let before = self.encode("a", false).ok()?;
            let whole = decode(&[&before[..], &[id]].concat())?;
            let text = whole.strip_prefix(&decode(&before)?)?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        let decoded = decoded().or_else(|| self.tokenizer.id_to_token(id));
        decoded.unwrap_or_default()
    }

    /// What stands at both ends of texts.
    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }
}

/// The added tokens of `tokenizer.json`.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<Value>,
}

/// `tokenizer.json` with the added tokens of `added_tokens_decoder`, whose flags go before its own. None
/// where there are no others.
fn with_added_tokens(
    tokenizer: &[u8],
    own: Vec<Value>,
    files: &TokenizerFiles,
) -> Result<Option<Vec<u8>>, String> {
    const FLAGS: [&str; 5] = ["single_word", "lstrip", "rstrip", "normalized", "special"];
    let has_text = |token: &Value, text: &str| token["content"] == text;
    let mut tokens = own.clone();
    let decoder = files.config.get("added_tokens_decoder");
    for (id, token) in decoder.and_then(Value::as_object).into_iter().flatten() {
        let (Ok(id), Some(text)) = (id.parse::<u32>(), token["content"].as_str()) else {
            return Err(format!(
                "tokenizer_config.json: the added token {id} is {token}; accepted: an id, and an \
                 object with its content"
            ));
        };
        let is_special = token["special"] == true;
        let flag = |name: &str| match token.get(name) {
            Some(flag) => flag.clone(),
            None => (name == "normalized" && !is_special).into(),
        };
        match tokens.iter_mut().find(|token| has_text(token, text)) {
            Some(known) if known["id"] != id => {
                return Err(format!(
                    "the token '{text}' has the id {} in tokenizer.json and {id} in \
                     tokenizer_config.json",
                    known["id"]
                ));
            }
            Some(known) => {
                for name in FLAGS {
                    known[name] = flag(name);
                }
            }
            None => {
                let mut added = json!({"id": id, "content": text});
                for name in FLAGS {
                    added[name] = flag(name);
                }
                tokens.push(added);
            }
        }
    }
    if tokens == own {
        return Ok(None);
    }
    let failed = |error: serde_json::Error| format!("tokenizer.json: {error}");
    let mut whole: Value = serde_json::from_slice(tokenizer).map_err(failed)?;
    tokens.sort_by_key(|token| token["id"].as_u64());
    whole["added_tokens"] = tokens.into();
    serde_json::to_vec(&whole).map(Some).map_err(failed)
}

/// Adds the tokens that other files have and that `tokenizer.json` has not as added tokens, in the order of
/// transformers (`TokenizersBackend.__init__`). What the vocabulary lacks too gets an id after its last
/// one, which the model may not embed.
fn add_tokens(tokenizer: &mut Tokenizer, files: &TokenizerFiles) -> tokenizers::Result<()> {
    let named = files.named.iter().map(|(_, text)| text);
    let special: Vec<&String> = named.chain(&files.unnamed).collect();
    let listed = files.listed.iter();
    let listed = listed.map(|text| (text, special.contains(&text)));
    let special = special.iter().map(|text| (*text, true));
    let known = tokenizer.get_added_tokens_decoder();
    let mut known: HashSet<&str> = known.values().map(|token| &token.content[..]).collect();
    let mut lacking = Vec::new();
    for (text, is_special) in listed.chain(special) {
        if !text.is_empty() && known.insert(text) {
            lacking.push(AddedToken::from(text.as_str(), is_special));
        }
    }
    tokenizer.add_tokens(lacking).map(drop)
}

/// Says where transformers would tokenize in another way than `tokenizer.json` says. What is right is
/// what the model was trained with, and that is what was published.
fn warn_of_replaced_parts(directory: &ModelDirectory) {
    let files = &directory.tokenizer_files;
    let parsed: Result<Value, _> = serde_json::from_slice(&directory.tokenizer);
    let replaced = parsed.map(|whole| files.class.replaced_parts(&whole, &files.config));
    let replaced = replaced.unwrap_or_default();
    if !replaced.is_empty() {
        let warning = directory.refuse(format!(
            "transformers 5 opens this directory as {}, which replaces {} of tokenizer.json by \
             others, so that it may give other tokens; here tokenizer.json is used as it was \
             published (tokenizer_class 'TokenizersBackend' in tokenizer_config.json makes \
             transformers do the same)",
            files.class.name(),
            replaced.join(", ")
        ));
        tracing::warn!("{warning}");
    }
}

/// Refuses a text of so many bytes if tokenizing it takes more than `most_bytes`.
fn refuse_above(text_bytes: usize, most_bytes: u64) -> Result<(), String> {
    const GIB: f64 = (1 << 30) as f64;
    let bytes = text_bytes as u64 * TOKENIZING_BYTES;
    if bytes <= most_bytes {
        return Ok(());
    }
    Err(format!(
        "the text has {text_bytes} bytes, which take about {:.1} GiB to tokenize; accepted: what takes \
         half of the free memory, {:.1} GiB now",
        bytes as f64 / GIB,
        most_bytes as f64 / GIB
    ))
}

/// What the post-processor puts before a text.
fn begin(tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    const TEXT: &str = "a";
    let bare = unpanicked(|| tokenizer.encode_fast(TEXT, false))?;
    let processed = unpanicked(|| tokenizer.encode_fast(TEXT, true))?;
    let (bare, processed) = (bare.get_ids(), processed.get_ids());
    let before = (0..processed.len()).find(|at| processed[*at..].starts_with(bare));
    match before {
        Some(before) => Ok(processed[..before].to_vec()),
        None => Err("its post-processor changes the text's own tokens".into()),
    }
}

/// What the tokenizers crate answers. It panics on some tokenizers that contradict themselves.
fn unpanicked<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it contradicts itself".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `tests/goldens/folders.jsonl`, which `make_folders.py` made with transformers.
    #[test]
    fn folders_are_read_as_by_transformers() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let lines = std::fs::read_to_string(goldens.join("folders.jsonl")).unwrap();
        assert!(lines.lines().count() >= 20);
        for line in lines.lines() {
            let golden: Value = serde_json::from_str(line).unwrap();
            let name = golden["name"].as_str().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let place = |name: &str| folder.path().join(name);
            for entry in std::fs::read_dir(goldens.join("families/llama/model")).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
            for (file, content) in golden["files"].as_object().unwrap() {
                match content {
                    Value::Null => drop(std::fs::remove_file(place(file))),
                    content => std::fs::write(place(file), content.to_string()).unwrap(),
                }
            }
            let own = std::fs::read(place("tokenizer.json")).unwrap();
            let mut own: Value = serde_json::from_slice(&own).unwrap();
            for (key, value) in golden["keys"].as_object().unwrap() {
                own[key] = value.clone();
            }
            std::fs::write(place("tokenizer.json"), own.to_string()).unwrap();

            let directory = ModelDirectory::open(folder.path()).unwrap();
            let tokenizer = TextTokenizer::from_directory(&directory).unwrap();
            for pair in golden["ids"].as_array().unwrap() {
                let ids = tokenizer.encode(pair[0].as_str().unwrap(), false).unwrap();
                assert_eq!(json!(ids), pair[1], "{name}: {}", pair[0]);
            }
            let named = tokenizer.ends().named.iter().cloned();
            let named: serde_json::Map<_, _> = named.map(|(n, text)| (n, text.into())).collect();
            assert_eq!(Value::Object(named), golden["named"], "{name}");
        }
    }

    #[test]
    fn a_text_that_memory_has_no_room_for_is_refused() {
        assert_eq!(refuse_above(10 << 20, 4 << 30), Ok(()));
        let refused = refuse_above(100 << 20, 4 << 30).unwrap_err();
        assert!(
            refused.contains("104857600 bytes, which take about 25.0 GiB"),
            "{refused}"
        );
        assert!(refused.contains("4.0 GiB now"), "{refused}");
    }
}
