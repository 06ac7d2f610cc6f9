//! From text to token ids.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;

use serde::de::IgnoredAny;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::model_directory::ModelDirectory;

/// `tokenizer.ggml.token_type` values (`llama_token_type` of llama.cpp).
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// `tokenizer.ggml.pre` values that are supported, as [`pre_tokenizer`] builds them.
const PRE_TOKENIZERS: &str = "smollm";

/// A model's tokenizer with what the contract of a text needs to know of it.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Texts of the special tokens with their ids.
    special: Vec<(String, u32)>,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
}

impl TextTokenizer {
    /// Builds the tokenizer from a GGUF file's metadata.
    ///
    /// # Errors
    /// When a field is missing or wrong, or the kind of tokenizer is not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let model = gguf.string("tokenizer.ggml.model")?.unwrap_or("");
        if model != "gpt2" {
            return Err(gguf.refuse(format!(
                "tokenizer.ggml.model is '{model}'; supported: gpt2 (byte-level BPE)"
            )));
        }
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let id = |at: usize| u32::try_from(at).expect("a vocabulary below 2^32 tokens");
        let vocab: Vocab = tokens
            .iter()
            .enumerate()
            .map(|(at, token)| (token.clone(), id(at)))
            .collect();
        if vocab.len() != tokens.len() {
            return Err(gguf.refuse("tokenizer.ggml.tokens holds a token twice"));
        }
        let failed = |error: tokenizers::Error| gguf.refuse(format!("the tokenizer: {error}"));
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges(gguf, tokens)?)
            .build()
            .map_err(failed)?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer(gguf)?));
        tokenizer.with_decoder(Some(ByteLevel::default()));

        let types = gguf.integers("tokenizer.ggml.token_type")?.unwrap_or(&[]);
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(gguf.refuse(format!(
                "tokenizer.ggml.token_type has {} entries for {} tokens",
                types.len(),
                tokens.len()
            )));
        }
        let of_type = |wanted: i64| {
            let typed = tokens.iter().zip(types).enumerate();
            typed
                .filter(move |(_, (token, found))| **found == wanted && !token.is_empty())
                .map(|(at, (token, _))| (token.clone(), at))
        };
        let special: Vec<(String, u32)> = of_type(CONTROL)
            .map(|(token, at)| (token, id(at)))
            .collect();
        let added = |special: bool| move |token: String| AddedToken::from(token, special);
        tokenizer
            .add_special_tokens(
                special
                    .iter()
                    .map(|(token, _)| token.clone())
                    .map(added(true)),
            )
            .and_then(|_| {
                tokenizer.add_tokens(
                    of_type(USER_DEFINED)
                        .map(|(token, _)| token)
                        .map(added(false)),
                )
            })
            .map_err(failed)?;

        let token_id = |key: &str| match gguf.count(key)? {
            Some(found) if found >= tokens.len() => Err(gguf.refuse(format!(
                "{key} is {found}; the vocabulary has {} tokens",
                tokens.len()
            ))),
            found => Ok(found.map(id)),
        };
        let bos = token_id("tokenizer.ggml.bos_token_id")?;
        Ok(Self {
            eos: token_id("tokenizer.ggml.eos_token_id")?,
            adds_bos: bos.is_some() && gguf.bool("tokenizer.ggml.add_bos_token")? == Some(true),
            bos,
            tokenizer,
            special,
        })
    }

    /// The tokenizer of a model directory.
    ///
    /// # Errors
    /// When `tokenizer.json` is not one, or a special token is named that it does not have.
    pub fn from_directory(directory: &ModelDirectory) -> Result<Self, ModelError> {
        let failed =
            |error: tokenizers::Error| directory.refuse(format!("tokenizer.json: {error}"));
        let syntax: Result<IgnoredAny, _> = serde_json::from_slice(&directory.tokenizer);
        syntax.map_err(|error| directory.refuse(format!("tokenizer.json: {error}")))?;
        let read = || Tokenizer::from_bytes(&directory.tokenizer);
        let mut tokenizer = unpanicked(read)
            .map_err(|reason| directory.refuse(format!("tokenizer.json: {reason}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<(String, u32)> = added
            .iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content.clone(), *id))
            .collect();
        special.sort_by_key(|(_, id)| *id);
        let named = |key: &str, text: Option<&str>, id: Option<u32>| match text {
            Some(text) => match tokenizer.token_to_id(text) {
                Some(id) => Ok(Some(id)),
                None => Err(directory.refuse(format!(
                    "tokenizer_config.json names the {key} '{text}', which tokenizer.json has not"
                ))),
            },
            None => Ok(id.filter(|id| tokenizer.id_to_token(*id).is_some())),
        };
        let (names, config) = (&directory.tokenizer_config, &directory.config);
        let bos = named("bos_token", names.bos(), config.bos())?;
        let eos = named("eos_token", names.eos(), config.eos())?;
        // The tokenizer's own BOS is what it puts before a text.
        let of_nothing = unpanicked(|| tokenizer.encode_fast("", true))
            .map_err(|reason| directory.refuse(format!("tokenizer.json: {reason}")))?;
        let adds_bos = bos.is_some() && of_nothing.get_ids().first().copied() == bos;
        Ok(Self {
            tokenizer,
            special,
            bos,
            eos,
            adds_bos,
        })
    }

    /// The ids of a text; special tokens that are written out in it are taken as such.
    /// `begin` asks for the tokenizer's own BOS, if it adds one.
    pub fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>, String> {
        let encoding = unpanicked(|| self.tokenizer.encode_fast(text, false))
            .map_err(|reason| format!("the text cannot be tokenized: {reason}"))?;
        let begin = self.bos.filter(|_| begin && self.adds_bos);
        Ok(begin
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    /// The first special token that is written out in `text`, with its position.
    pub fn first_special(&self, text: &str) -> Option<(usize, &str, u32)> {
        self.special
            .iter()
            .filter_map(|(token, id)| Some((text.find(token.as_str())?, token.as_str(), *id)))
            .min_by_key(|(at, token, _)| (*at, std::cmp::Reverse(token.len())))
    }

    /// The text of a token, as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}

/// What the tokenizers crate answers. It panics on some tokenizers that contradict themselves.
fn unpanicked<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it contradicts itself".into()),
    }
}

/// The merges, each checked to be of known tokens: the builder indexes by them unchecked.
fn merges(gguf: &Gguf, tokens: &[String]) -> Result<Vec<(String, String)>, ModelError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut merged = String::new();
    gguf.strings(KEY)?
        .iter()
        .map(|merge| {
            if let Some((left, right)) = merge.split_once(' ') {
                merged.clear();
                merged.push_str(left);
                merged.push_str(right);
                if [left, right, &merged]
                    .iter()
                    .all(|token| known.contains(token))
                {
                    return Ok((left.to_owned(), right.to_owned()));
                }
            }
            Err(gguf.refuse(format!("{KEY}: '{merge}' does not join two known tokens")))
        })
        .collect()
}

/// The pre-tokenizer that a GGUF file only names.
fn pre_tokenizer(gguf: &Gguf) -> Result<PreTokenizerWrapper, ModelError> {
    match gguf.string("tokenizer.ggml.pre")? {
        Some("smollm") => Ok(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ])
        .into()),
        other => Err(gguf.refuse(format!(
            "tokenizer.ggml.pre is '{}'; supported: {PRE_TOKENIZERS}",
            other.unwrap_or("")
        ))),
    }
}
