//! The tokenizer that a GGUF file's metadata describes.

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::tokenizer::{Ends, TextTokenizer};

/// `tokenizer.ggml.token_type` values (`llama_token_type` of llama.cpp).
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Longer than any piece of a real vocabulary; bounds the work of splitting one.
const MAX_PIECE_BYTES: usize = 256;

/// A byte-level pre-tokenizer that `tokenizer.ggml.pre` only names.
struct PreTokenizer {
    names: &'static [&'static str],
    /// What words are, where it is not GPT-2's rule.
    words: Option<&'static str>,
    /// Whether each digit is a word.
    splits_digits: bool,
    /// Whether texts are brought into Unicode's normal form C.
    normalizes: bool,
    /// Whether a word that is a token is that token, whatever merges make of it.
    ignores_merges: bool,
    /// Whether BOS precedes a text unless the file says otherwise.
    adds_bos: bool,
}

const GPT2: PreTokenizer = PreTokenizer {
    names: &["gpt-2"],
    words: None,
    splits_digits: false,
    normalizes: false,
    ignores_merges: false,
    adds_bos: false,
};

/// The supported ones, as `tokenizer.json` of the models that they come from has them. Each has a
/// golden, `tests/goldens/gguf/tokenizer-*`.
const PRE_TOKENIZERS: [PreTokenizer; 4] = [
    GPT2,
    PreTokenizer {
        names: &["smollm"],
        splits_digits: true,
        ..GPT2
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        words: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignores_merges: true,
        adds_bos: true,
        ..GPT2
    },
    PreTokenizer {
        names: &["qwen2"],
        words: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        normalizes: true,
        ..GPT2
    },
];

/// Builds the tokenizer from a GGUF file's metadata.
///
/// # Errors
/// When a field is missing or wrong, or the kind of tokenizer is not supported.
pub fn tokenizer_from_gguf(gguf: &Gguf) -> Result<TextTokenizer, ModelError> {
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let id = |at: usize| u32::try_from(at).expect("a vocabulary below 2^32 tokens");
    let entries = tokens.iter().enumerate();
    let vocab: Vocab = entries.map(|(at, token)| (token.clone(), id(at))).collect();
    if vocab.len() != tokens.len() {
        return Err(gguf.refuse("tokenizer.ggml.tokens holds a token twice"));
    }
    let types = gguf.integers("tokenizer.ggml.token_type")?.unwrap_or(&[]);
    let (mut tokenizer, adds_bos) = match gguf.string("tokenizer.ggml.model")?.unwrap_or("") {
        "gpt2" => byte_level(gguf, vocab)?,
        "llama" => sentencepiece(gguf, vocab, types)?,
        other => {
            return Err(gguf.refuse(format!(
                "tokenizer.ggml.model is '{other}'; supported: gpt2 (byte-level BPE), llama \
                 (SentencePiece BPE)"
            )));
        }
    };
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
            .map(|(at, (token, _))| (token.clone(), id(at)))
    };
    let special: Vec<(String, u32)> = of_type(CONTROL).collect();
    let added = |special: bool| {
        move |(token, _): (String, u32)| AddedToken::from(token, special).normalized(false)
    };
    tokenizer
        .add_special_tokens(special.iter().cloned().map(added(true)))
        .and_then(|_| tokenizer.add_tokens(of_type(USER_DEFINED).map(added(false))))
        .map_err(|error| failed(gguf, error))?;

    let token_id = |key: &str| match gguf.count(key)? {
        Some(found) if found >= tokens.len() => Err(gguf.refuse(format!(
            "{key} is {found}; the vocabulary has {} tokens",
            tokens.len()
        ))),
        found => Ok(found.map(id)),
    };
    let adds_bos = gguf
        .bool("tokenizer.ggml.add_bos_token")?
        .unwrap_or(adds_bos);
    let bos = token_id("tokenizer.ggml.bos_token_id")?;
    let eos = token_id("tokenizer.ggml.eos_token_id")?;
    let text = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let ends = Ends {
        begin: bos.filter(|_| adds_bos).into_iter().collect(),
        eos,
        bos_text: text(bos).unwrap_or_default(),
        eos_text: text(eos).unwrap_or_default(),
    };
    Ok(TextTokenizer::new(tokenizer, special, ends))
}

fn failed(gguf: &Gguf, error: tokenizers::Error) -> ModelError {
    gguf.refuse(format!("the tokenizer: {error}"))
}

/// BPE over bytes, and whether it adds BOS by default.
fn byte_level(gguf: &Gguf, vocab: Vocab) -> Result<(Tokenizer, bool), ModelError> {
    const KEY: &str = "tokenizer.ggml.pre";
    let name = gguf.string(KEY)?.unwrap_or("");
    let found = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name));
    let Some(pre) = found else {
        let supported: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).collect();
        return Err(gguf.refuse(format!(
            "{KEY} is '{name}'; supported: {}",
            supported
                .iter()
                .map(|name| **name)
                .collect::<Vec<_>>()
                .join(", ")
        )));
    };
    let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
    if pre.splits_digits {
        parts.push(Digits::new(true).into());
    }
    if let Some(words) = pre.words {
        let pattern = SplitPattern::Regex(words.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        parts.push(split.map_err(|error| failed(gguf, error))?.into());
    }
    parts.push(ByteLevel::new(false, true, pre.words.is_none()).into());
    let merges = merges(gguf, &vocab)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignores_merges)
        .build()
        .map_err(|error| failed(gguf, error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer
        .with_normalizer(pre.normalizes.then_some(NFC))
        .map_err(|error| failed(gguf, error))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, pre.adds_bos))
}

/// The merges, each checked to be of known tokens: the builder indexes by them unchecked.
fn merges(gguf: &Gguf, vocab: &Vocab) -> Result<Vec<(String, String)>, ModelError> {
    const KEY: &str = "tokenizer.ggml.merges";
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
                    .all(|token| vocab.contains_key(*token))
                {
                    return Ok((left.to_owned(), right.to_owned()));
                }
            }
            Err(gguf.refuse(format!("{KEY}: '{merge}' does not join two known tokens")))
        })
        .collect()
}

/// SentencePiece's BPE, which joins the neighbours whose piece has the highest score, with bytes
/// for unknown letters; and that it adds BOS by default.
fn sentencepiece(
    gguf: &Gguf,
    vocab: Vocab,
    types: &[i64],
) -> Result<(Tokenizer, bool), ModelError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let scores = gguf.floats(SCORES)?;
    if scores.len() != tokens.len() || types.len() != tokens.len() {
        return Err(gguf.refuse(format!(
            "{} tokens have {} scores and {} types",
            tokens.len(),
            scores.len(),
            types.len()
        )));
    }
    let pieces: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .filter(|(at, _)| types[*at] == NORMAL)
        .map(|(at, token)| (token.as_str(), at))
        .collect();
    let mut joins = Vec::new();
    for (piece, at) in &pieces {
        if piece.len() > MAX_PIECE_BYTES {
            return Err(gguf.refuse(format!(
                "a piece of {} bytes; accepted: up to {MAX_PIECE_BYTES}",
                piece.len()
            )));
        }
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if let (Some(left), Some(right)) = (pieces.get(left), pieces.get(right)) {
                joins.push((scores[*at], *at, *left, *right));
            }
        }
    }
    // Of equal scores the longer left part first, as transformers orders them.
    let length = |at: &usize| tokens[*at].chars().count();
    joins.sort_by(
        |(score, piece, left, _), (other, other_piece, other_left, _)| {
            other
                .total_cmp(score)
                .then_with(|| length(other_left).cmp(&length(left)))
                .then_with(|| piece.cmp(other_piece))
        },
    );
    let merges = joins
        .into_iter()
        .map(|(_, _, left, right)| (tokens[left].clone(), tokens[right].clone()))
        .collect();
    let unknown = match gguf.count("tokenizer.ggml.unknown_token_id")? {
        Some(id) => tokens.get(id).cloned(),
        None => None,
    };
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(true)
        .byte_fallback(true);
    if let Some(unknown) = unknown {
        bpe = bpe.unk_token(unknown);
    }
    let bpe = bpe.build().map_err(|error| failed(gguf, error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if gguf
        .bool("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true)
    {
        normalizers.push(Prepend::new(SPACE.into()).into());
    }
    let spaces = Replace::new(" ", SPACE).map_err(|error| failed(gguf, error))?;
    normalizers.push(spaces.into());
    tokenizer
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(|error| failed(gguf, error))?;
    let spaces = Replace::new(SPACE, " ").map_err(|error| failed(gguf, error))?;
    let decoders: [DecoderWrapper; 3] = [
        spaces.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    tokenizer.with_decoder(Some(Decoders::new(decoders.into())));
    Ok((tokenizer, true))
}

#[cfg(test)]
#[path = "../tests/support/seeded.rs"]
mod seeded;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::seeded::Seeded;
    use super::*;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf")
    }

    fn kinds() -> impl Iterator<Item = &'static str> {
        let byte_level = PRE_TOKENIZERS.iter().map(|pre| pre.names[0]);
        byte_level.chain(["sentencepiece", "sentencepiece-no-prefix"])
    }

    #[test]
    fn damaged_files_are_refused_or_tokenize() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut seeded = Seeded(3);
        for kind in kinds() {
            let whole = std::fs::read(goldens().join(format!("tokenizer-{kind}.gguf"))).unwrap();
            let mut refused = 0;
            for _ in 0..300 {
                let mut bytes = whole.clone();
                for _ in 0..=seeded.below(5) {
                    let at = seeded.below(bytes.len());
                    bytes[at] = seeded.below(256) as u8;
                }
                std::fs::write(file.path(), bytes).unwrap();
                let gguf = Gguf::open(file.path());
                match gguf.and_then(|gguf| tokenizer_from_gguf(&gguf)) {
                    Ok(tokenizer) => drop(tokenizer.encode("It's 42 <s> \u{2603}\n", true)),
                    Err(_) => refused += 1,
                }
            }
            assert!((30..300).contains(&refused), "{kind}: {refused}");
        }
    }

    /// What the libraries that the models use make of each text
    /// (`tests/goldens/make_gguf.py`).
    #[test]
    fn tokenizers_agree_with_their_goldens() {
        for kind in kinds() {
            let gguf = Gguf::open(&goldens().join(format!("tokenizer-{kind}.gguf"))).unwrap();
            let tokenizer = tokenizer_from_gguf(&gguf).unwrap();
            let rows = goldens().join(format!("tokenizer-{kind}.jsonl"));
            let rows = std::fs::read_to_string(rows).unwrap();
            assert!(rows.lines().count() >= 40, "{kind}");
            for row in rows.lines() {
                let row: Value = serde_json::from_str(row).unwrap();
                let text = row["text"].as_str().unwrap();
                let ids = tokenizer.encode(text, false).unwrap();
                assert_eq!(Value::from(ids), row["ids"], "{kind}: {text:?}");
            }
        }
    }
}
