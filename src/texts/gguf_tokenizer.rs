//! The tokenizer that a GGUF file's metadata describes.

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::files::error::ModelError;
use crate::files::gguf::Gguf;
use crate::texts::gguf_pre_tokenizers::PRE_TOKENIZERS;
use crate::texts::tokenizer::{Ends, TextTokenizer};

/// `tokenizer.ggml.token_type` values (`llama_token_type` of llama.cpp).
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Longer than any piece of a real vocabulary; bounds the work of splitting one.
const MAX_PIECE_BYTES: usize = 256;

/// Tokens that llama.cpp takes for the end of a text by what they are called; they are control
/// tokens, whatever type the file gives them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];

/// Control tokens by what they are called, where the file does not say by these keys which token it
/// is: those for text before, after and between what is to be filled in.
const FILLS: [(&[&str], &[&str]); 6] = [
    (
        &["fim_pre_token_id", "prefix_token_id"],
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
            "<PRE>",
            "\u{2581}<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        &["fim_suf_token_id", "suffix_token_id"],
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
            "<SUF>",
            "\u{2581}<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        &["fim_mid_token_id", "middle_token_id"],
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
            "<MID>",
            "\u{2581}<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (
        &["fim_pad_token_id"],
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        &["fim_rep_token_id"],
        &[
            "<|fim_repo|>",
            "<|repo_name|>",
            "<fim-repo>",
            "<REPO>",
            "<reponame>",
        ],
    ),
    (&["fim_sep_token_id"], &["<|file_sep|>"]),
];

/// Parts of gpt-oss's turns, which texts may have in any case.
const OF_TURNS: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The tokens' types as llama.cpp corrects them by what the tokens are called.
fn corrected_types(gguf: &Gguf, vocab: &Vocab, types: &[i64], eos: Option<u32>) -> Vec<i64> {
    let mut types = types.to_vec();
    types.resize(vocab.len(), NORMAL);
    let id = |text: &str| vocab.get(text).map(|id| *id as usize);
    for (keys, texts) in FILLS {
        let is_given = |key: &&str| gguf.value(&format!("tokenizer.ggml.{key}")).is_some();
        if !keys.iter().any(is_given) {
            texts
                .iter()
                .filter_map(|text| id(text))
                .for_each(|id| types[id] = CONTROL);
        }
    }
    let ends = ENDS.iter().copied();
    let ends: Vec<&str> = ends.filter(|text| vocab.contains_key(*text)).collect();
    let has = |text: &str| ends.contains(&text);
    for end in &ends {
        if let Some(id) = id(end) {
            types[id] = CONTROL;
        }
    }
    let calls = has("<|call|>") || has("<|calls|>");
    let is_part_of_turn = has("<|end|>") && calls && (has("<|return|>") || has("<|flush|>"));
    let of_turns = OF_TURNS.iter().copied();
    for text in of_turns.chain(is_part_of_turn.then_some("<|end|>")) {
        if let Some(id) = id(text) {
            types[id] = USER_DEFINED;
        }
    }
    // Gemma 4 and PLaMo have it without a meaning.
    let is_plamo = eos.is_some() && vocab.get("<|plamo:eos|>").copied() == eos;
    if (has("<|tool_response>") || is_plamo)
        && let Some(id) = id("</s>")
    {
        types[id] = NORMAL;
    }
    types
}

/// Whether a token's text is one that templates write and people do not: `<...>` or `[...]`.
fn is_marker(text: &str) -> bool {
    let is_within = |open: char, close: char| text.starts_with(open) && text.ends_with(close);
    (is_within('<', '>') || is_within('[', ']'))
        && text.len() > 2
        && !text.contains(char::is_whitespace)
}

/// Builds the tokenizer from a GGUF file's metadata.
///
/// # Errors
/// When a field is missing or wrong, or the kind of tokenizer is not supported.
pub(crate) fn tokenizer_from_gguf(gguf: &Gguf) -> Result<TextTokenizer, ModelError> {
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let id = |at: usize| u32::try_from(at).expect("a vocabulary below 2^32 tokens");
    let entries = tokens.iter().enumerate();
    let vocab: Vocab = entries.map(|(at, token)| (token.clone(), id(at))).collect();
    if vocab.len() != tokens.len() {
        return Err(gguf.refuse("tokenizer.ggml.tokens holds a token twice"));
    }
    let types = gguf.integers("tokenizer.ggml.token_type")?.unwrap_or(&[]);
    let model = gguf.string("tokenizer.ggml.model")?.unwrap_or("");
    let is_sentencepiece = model == "llama";
    let (mut tokenizer, adds_bos) = match model {
        "gpt2" => byte_level(gguf, vocab.clone())?,
        "llama" => sentencepiece(gguf, vocab.clone(), types)?,
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
    let token_id = |key: &str| match gguf.count(key)? {
        Some(found) if found >= tokens.len() => Err(gguf.refuse(format!(
            "{key} is {found}; the vocabulary has {} tokens",
            tokens.len()
        ))),
        found => Ok(found.map(id)),
    };
    // llama.cpp has defaults for byte-level BPE too, which name no token in particular.
    let by_default = |at: usize| (is_sentencepiece && at < tokens.len()).then(|| id(at));
    let bos = token_id("tokenizer.ggml.bos_token_id")?.or_else(|| by_default(1));
    let eos = token_id("tokenizer.ggml.eos_token_id")?.or_else(|| by_default(2));
    let types = corrected_types(gguf, &vocab, types, eos);
    let typed = || {
        let typed = tokens.iter().zip(&types).enumerate();
        typed
            .filter(|(_, (token, _))| !token.is_empty())
            .map(|(at, (token, found))| (token, id(at), *found))
    };
    let name = gguf.string("general.name")?.unwrap_or("").to_lowercase();
    if name.contains("phi-3") || name.contains("phi3") {
        return Err(gguf.refuse(format!(
            "general.name is '{name}': llama.cpp takes spaces off what follows the special tokens of \
             Phi-3, which is not supported; accepted: the model's directory"
        )));
    }
    let added = |special: bool| {
        move |(token, _, _): (&String, u32, i64)| {
            AddedToken::from(token.clone(), special).normalized(false)
        }
    };
    let is_special = |(_, _, found): &(&String, u32, i64)| [CONTROL, UNKNOWN].contains(found);
    let is_own = |(_, _, found): &(&String, u32, i64)| *found == USER_DEFINED;
    let special: Vec<AddedToken> = typed().filter(is_special).map(added(true)).collect();
    let own: Vec<AddedToken> = typed().filter(is_own).map(added(false)).collect();
    tokenizer
        .add_special_tokens(special)
        .and_then(|_| tokenizer.add_tokens(own))
        .map_err(|error| failed(gguf, error))?;
    // What a template may end a turn with, whatever type the file gives it.
    let may_end = |(token, at, found): &(&String, u32, i64)| {
        [CONTROL, UNKNOWN].contains(found)
            || Some(*at) == eos
            || is_marker(token)
            || *found == USER_DEFINED && !token.trim().is_empty()
    };
    let may_end = typed().filter(may_end);
    let may_end: Vec<_> = may_end.map(|(token, at, _)| (token.clone(), at)).collect();
    let adds_bos = gguf
        .bool("tokenizer.ggml.add_bos_token")?
        .unwrap_or(adds_bos);
    let text = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let named = [("bos_token", bos), ("eos_token", eos)];
    let named = named.map(|(name, id)| (name.to_owned(), text(id).unwrap_or_default()));
    let ends = Ends {
        begin: bos.filter(|_| adds_bos).into_iter().collect(),
        eos,
        named: named.into(),
    };
    Ok(TextTokenizer::new(tokenizer, may_end, ends))
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
        let first = PRE_TOKENIZERS.iter().map(|pre| pre.names[0]);
        let others = PRE_TOKENIZERS.iter().flat_map(|pre| &pre.names[1..]);
        let supported = first.chain(others.copied().filter(|name| !name.is_empty()));
        let supported: Vec<&str> = supported.collect();
        return Err(gguf.refuse(format!(
            "{KEY} is '{name}'; supported: {}",
            supported.join(", ")
        )));
    };
    if name.is_empty() {
        tracing::warn!(
            "{}: the metadata has no {KEY}; the default is taken, as llama.cpp does",
            gguf.path().display()
        );
    }
    let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
    for words in pre.words {
        let pattern = SplitPattern::Regex((*words).into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        parts.push(split.map_err(|error| failed(gguf, error))?.into());
    }
    parts.push(ByteLevel::new(false, true, false).into());
    let merges = merges(gguf, &vocab)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignores_merges)
        .build()
        .map_err(|error| failed(gguf, error))?;
    let mut tokenizer = Tokenizer::new(bpe);
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
    let unknown = gguf.count("tokenizer.ggml.unknown_token_id")?;
    let unknown = tokens.get(unknown.unwrap_or_default()).cloned();
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
#[path = "../../tests/support/seeded.rs"]
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

    /// Whole tokenizers.
    const KINDS: [&str; 6] = [
        "bytes",
        "special",
        "sentencepiece",
        "sentencepiece-no-prefix",
        "sentencepiece-no-ids",
        "special-sentencepiece",
    ];

    /// The file of kind `bytes` with another `tokenizer.ggml.pre`, or none.
    fn with_pre(name: &str) -> Vec<u8> {
        const KEY: &[u8] = b"tokenizer.ggml.pre";
        let bytes = std::fs::read(goldens().join("tokenizer-bytes.gguf")).unwrap();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let key = bytes.windows(KEY.len()).position(|found| found == KEY);
        let key = key.unwrap();
        let length = key + KEY.len() + 4;
        let rest = &bytes[length + 8 + number(length) as usize..];
        if name.is_empty() {
            let count = (number(16) - 1).to_le_bytes();
            return [&bytes[..16], &count, &bytes[24..key - 8], rest].concat();
        }
        let new_length = (name.len() as u64).to_le_bytes();
        [&bytes[..length], &new_length, name.as_bytes(), rest].concat()
    }

    fn assert_rows(gguf: &Gguf, rows: &str) {
        let tokenizer = tokenizer_from_gguf(gguf).unwrap();
        let file = std::fs::read_to_string(goldens().join(rows)).unwrap();
        assert!(file.lines().count() >= 10, "{rows}");
        for row in file.lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let text = row["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(Value::from(ids), row["ids"], "{rows}: {text:?}");
        }
    }

    #[test]
    fn damaged_files_are_refused_or_tokenize() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut seeded = Seeded(3);
        for kind in KINDS {
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

    /// What llama.cpp makes of each text (`tests/goldens/make_gguf.py`).
    #[test]
    fn tokenizers_agree_with_their_goldens() {
        for kind in KINDS {
            let gguf = Gguf::open(&goldens().join(format!("tokenizer-{kind}.gguf"))).unwrap();
            let rows = match kind {
                "bytes" => "pre-llama-bpe.jsonl".to_owned(),
                kind => format!("tokenizer-{kind}.jsonl"),
            };
            assert_rows(&gguf, &rows);
        }
    }

    #[test]
    fn pre_tokenizers_agree_with_their_goldens() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for pre in &PRE_TOKENIZERS {
            for name in pre.names {
                std::fs::write(file.path(), with_pre(name)).unwrap();
                let gguf = Gguf::open(file.path()).unwrap();
                assert_rows(&gguf, &format!("pre-{}.jsonl", pre.names[0]));
                let tokenizer = tokenizer_from_gguf(&gguf).unwrap();
                assert_eq!(
                    tokenizer.ends().begin.len(),
                    usize::from(pre.adds_bos),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn an_end_token_is_found_whatever_type_it_has() {
        let gguf = Gguf::open(&goldens().join("tokenizer-special.gguf")).unwrap();
        let tokenizer = tokenizer_from_gguf(&gguf).unwrap();
        // Normal by the file: one that llama.cpp corrects, and one that it does not.
        for end in ["<|im_end|>", "<|end_of_turn|>", "<|turn|>", "</s>"] {
            let after = format!(" {end} x");
            let (_, found, _) = tokenizer.first_special(&after).unwrap();
            assert_eq!(found, end);
        }
        assert!(tokenizer.first_special("\n\n   a").is_none());
    }
}
