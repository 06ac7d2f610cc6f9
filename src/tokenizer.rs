//! From text to token ids.

use std::panic::AssertUnwindSafe;

use serde::de::IgnoredAny;
use tokenizers::Tokenizer;

use crate::error::ModelError;
use crate::model_directory::ModelDirectory;

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
    /// A tokenizer whose special tokens are these, texts with ids.
    pub fn new(
        tokenizer: Tokenizer,
        special: Vec<(String, u32)>,
        bos: Option<u32>,
        eos: Option<u32>,
        adds_bos: bool,
    ) -> Self {
        Self {
            tokenizer,
            special,
            bos,
            eos,
            adds_bos: adds_bos && bos.is_some(),
        }
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
        let adds_bos = of_nothing.get_ids().first().copied() == bos;
        Ok(Self::new(tokenizer, special, bos, eos, adds_bos))
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
