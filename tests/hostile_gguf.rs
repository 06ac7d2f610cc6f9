//! Model files that are cut, damaged or made to harm: an error that says what was found, no
//! panic, no hang, and no allocation that the file's own size does not explain.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/one_pair.rs"]
mod one_pair;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;

use std::path::Path;

use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{
    ChesSettings, Job, Needs, PairScores, PreferencePair, Scorer, Text,
};
use one_pair::score_one;
use seeded::Seeded;
use tiny_gguf::{GgufFile, Tensor, Value, tiny_llama};

/// Tests run side by side, so this is for all of them.
const PEAK_ACCEPTED: usize = 128 << 20;

/// Scores one pair with the file; `Err` is what the query would say.
async fn score(path: &Path, bytes: &[u8]) -> Result<PairScores, String> {
    std::fs::write(path, bytes).unwrap();
    let scored = score_one(path, ["a b", " yes", " no"]).await;
    let peak = counting::peak();
    assert!(peak <= PEAK_ACCEPTED, "{peak} bytes were allocated");
    scored
}

#[tokio::test]
async fn files_as_they_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let scores = score(&path, &tiny_llama().bytes()).await.unwrap();
    assert!(scores.ches.unwrap().is_finite());
    assert!(scores.chosen_logprob.unwrap() < 0.0);
    // BOS, a, space, b
    assert_eq!(scores.prompt_tokens, Some(4));
}

#[tokio::test]
async fn cut_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let whole = tiny_llama().bytes();
    for length in 0..whole.len() {
        let error = score(&path, &whole[..length])
            .await
            .expect_err("a cut file");
        assert!(error.starts_with("ches.model: "), "{error}");
        assert!(error.contains("cut.gguf"), "{error}");
    }
}

#[tokio::test]
async fn made_to_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let llama = tiny_llama;
    let with = |key: &str, value: Value| llama().set(key, Some(value));
    let without = |key: &str| llama().set(key, None);
    let tensor = |change: fn(&mut Tensor)| llama().change("blk.0.attn_q.weight", change);
    let text = |text: &str| Value::String(text.into());
    let array = |kind: u32, count: u64| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        Value::Bytes(9, bytes)
    };
    let twice = |mut file: GgufFile| {
        let entry = file.metadata[1].clone();
        file.metadata.push(entry);
        file
    };
    let tensor_twice = |mut file: GgufFile| {
        file.tensors.push(file.tensors[0].clone());
        file
    };
    let head = |change: fn(&mut GgufFile)| {
        let mut file = llama();
        change(&mut file);
        file
    };
    // As many blocks as are allowed, all of whose tensors are one.
    let overlapping = head(|file| {
        *file = file
            .clone()
            .set("llama.block_count", Some(Value::U32(4096)));
        let block: Vec<_> = file.tensors.drain(2..).collect();
        for layer in 0..4096 {
            file.tensors.extend(block.iter().cloned().map(|mut tensor| {
                tensor.name = tensor.name.replace("blk.0", &format!("blk.{layer}"));
                tensor.values.clear();
                tensor.offset = Some(0);
                tensor
            }));
        }
    });
    let template = |source: &str| with("tokenizer.chat_template", text(source));
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% for j in range(99) %}\
                  {% set ns.x = [ns.x] %}{% endfor %}{% endfor %}{{ ns.x | length }}";
    let cases: Vec<(GgufFile, &str)> = vec![
        (overlapping, "overlap"),
        (template(&format!("{{{{ {}1 }}}}", "-".repeat(65_000))), ""),
        (template(&format!("{{{{ {}1 }}}}", "1+".repeat(32_000))), ""),
        (template(&format!("{{{{ a{} }}}}", ".b".repeat(32_000))), ""),
        (
            template(&format!("{{{{ {}1 }}}}", "not ".repeat(16_000))),
            "",
        ),
        (
            template(&"x".repeat(70_000)),
            "70000 bytes; accepted: up to 65536",
        ),
        (template(nested), "steps"),
        (template("{% include 'chat_template' %}"), "chat template"),
        (head(|f| f.magic = *b"GGML"), "not a GGUF file"),
        (head(|f| f.version = 1), "GGUF version 1; accepted: 2 and 3"),
        (
            head(|f| f.version = 3 << 24),
            "accepted: 2 and 3, little endian",
        ),
        (
            head(|f| f.tensor_count = Some(u64::MAX)),
            "tensors cannot fit",
        ),
        (
            head(|f| f.tensor_count = Some(1 << 40)),
            "tensors cannot fit",
        ),
        (head(|f| f.tensor_count = Some(0)), "there is no tensor"),
        (
            head(|f| f.metadata_count = Some(u64::MAX)),
            "metadata entries cannot fit",
        ),
        (
            head(|f| f.metadata_count = Some(1 << 50)),
            "metadata entries cannot fit",
        ),
        (twice(llama()), "llama.block_count is there twice"),
        (tensor_twice(llama()), "token_embd.weight is there twice"),
        // Strings and arrays that are longer than the file.
        (
            with("x", Value::Bytes(8, u64::MAX.to_le_bytes().into())),
            "the file ends within a string",
        ),
        (with("x", array(0, u64::MAX)), "array elements cannot fit"),
        (with("x", array(10, 1 << 61)), "array elements cannot fit"),
        (with("x", array(8, 1 << 30)), "array elements cannot fit"),
        (with("x", array(9, 1)), "an array of arrays"),
        (with("x", array(77, 1)), "an array of unknown type 77"),
        (with("x", Value::Bytes(77, vec![])), "unknown type 77"),
        (with("x", Value::Bytes(7, vec![2])), "a boolean of value 2"),
        (
            with(
                "x",
                Value::Bytes(8, [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            ),
            "not UTF-8",
        ),
        // Alignments.
        (
            with("general.alignment", Value::U32(0)),
            "general.alignment is 0",
        ),
        (
            with("general.alignment", Value::U32(24)),
            "general.alignment is 24",
        ),
        (
            with("general.alignment", text("32")),
            "general.alignment is a string",
        ),
        // Tensors.
        (
            tensor(|t| t.dimensions = vec![]),
            "0 dimensions; accepted: 1 to 4",
        ),
        (
            tensor(|t| t.dimensions = vec![2; 5]),
            "5 dimensions; accepted: 1 to 4",
        ),
        (tensor(|t| t.dimensions = vec![8, 0]), "a dimension of 0"),
        (
            tensor(|t| t.dimensions = vec![u64::MAX, 1]),
            "reaches beyond the file's",
        ),
        (
            tensor(|t| t.dimensions = vec![1 << 33, 1 << 33]),
            "reaches beyond the file's",
        ),
        (
            tensor(|t| t.dimensions = vec![8, 1 << 40]),
            "reaches beyond the file's",
        ),
        (
            tensor(|t| t.dimensions = vec![4, 8]),
            "has shape [8, 4]; the metadata calls for [8, 8]",
        ),
        (tensor(|t| t.dtype = 99), "ggml type 99; accepted: F32"),
        (tensor(|t| t.dtype = 3), "no multiple of the 32 values"),
        (
            tensor(|t| t.offset = Some(u64::MAX - 31)),
            "reaches beyond the file's",
        ),
        (
            tensor(|t| t.offset = Some(1 << 62)),
            "reaches beyond the file's",
        ),
        (
            tensor(|t| t.offset = Some(4)),
            "its offset 4 is not a multiple of 32",
        ),
        (
            tensor(|t| t.name = "other".into()),
            "there is no tensor blk.0.attn_q.weight",
        ),
        (
            tensor(|t| t.values[3] = f32::NAN),
            "values that are not finite",
        ),
        (
            tensor(|t| t.values[0] = f32::INFINITY),
            "values that are not finite",
        ),
        // Shapes of the model.
        (
            with("general.architecture", text("mamba")),
            "architecture 'mamba'; supported: llama",
        ),
        (
            without("general.architecture"),
            "architecture ''; supported: llama",
        ),
        (
            with("general.architecture", Value::U32(1)),
            "general.architecture is an integer",
        ),
        (
            without("llama.block_count"),
            "the metadata has no llama.block_count",
        ),
        (
            with("llama.block_count", Value::U32(0)),
            "llama.block_count is 0",
        ),
        (
            with("llama.block_count", Value::U32(u32::MAX)),
            "blocks; accepted: up to 4096",
        ),
        (
            with("llama.block_count", Value::U32(2)),
            "there is no tensor blk.1.",
        ),
        (
            with("llama.embedding_length", Value::U32(0)),
            "llama.embedding_length is 0",
        ),
        (
            with("llama.embedding_length", Value::U32(u32::MAX - 3)),
            "a head width of 2147483646; accepted: even sizes up to 65536",
        ),
        (
            with("llama.embedding_length", Value::F32(8.0)),
            "is a float; accepted: an integer",
        ),
        (
            with(
                "llama.embedding_length",
                Value::Bytes(5, (-8i32).to_le_bytes().into()),
            ),
            "is -8",
        ),
        (
            with("llama.feed_forward_length", Value::U32(1 << 31)),
            "the metadata calls for",
        ),
        (
            with("llama.attention.head_count", Value::U32(0)),
            "head_count is 0",
        ),
        (
            with("llama.attention.head_count", Value::U32(3)),
            "3 heads do not divide width 8",
        ),
        (
            with("llama.attention.head_count", Value::U32(8)),
            "a head width of 1",
        ),
        (
            with("llama.attention.head_count_kv", Value::U32(0)),
            "do not share 0 key heads",
        ),
        (
            with("llama.attention.head_count_kv", Value::U32(3)),
            "do not share 3 key heads",
        ),
        (
            with("llama.attention.key_length", Value::U32(0)),
            "a head width of 0",
        ),
        (
            with("llama.rope.dimension_count", Value::U32(2)),
            "and 2 of that is rotated",
        ),
        (
            with("llama.expert_count", Value::U32(8)),
            "a mixture of experts",
        ),
        (
            with("llama.context_length", Value::U32(0)),
            "llama.context_length is 0",
        ),
        (
            with("llama.rope.freq_base", Value::F32(0.0)),
            "llama.rope.freq_base is 0",
        ),
        (
            with("llama.rope.freq_base", Value::F32(f32::NAN)),
            "llama.rope.freq_base is NaN",
        ),
        (
            with("llama.rope.scaling.type", text("yarn")),
            "rope scaling 'yarn'",
        ),
        (
            without("llama.attention.layer_norm_rms_epsilon"),
            "has no llama.attention.layer_norm",
        ),
        // Tokenizers.
        (
            with("tokenizer.ggml.model", text("bert")),
            "supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)",
        ),
        (
            with("tokenizer.ggml.model", text("llama")),
            "the metadata has no tokenizer.ggml.scores",
        ),
        (
            with("tokenizer.ggml.pre", text("other")),
            "tokenizer.ggml.pre is 'other'; supported: gpt-2, smollm, llama-bpe",
        ),
        (
            without("tokenizer.ggml.tokens"),
            "the metadata has no tokenizer.ggml.tokens",
        ),
        (
            with("tokenizer.ggml.tokens", Value::Strings(vec![])),
            "merges: 'a b' does not join",
        ),
        (
            with("tokenizer.ggml.tokens", Value::Strings(vec!["a".into(); 2])),
            "holds a token twice",
        ),
        (
            with("tokenizer.ggml.tokens", text("a")),
            "is a string; accepted: an array of strings",
        ),
        (
            with("tokenizer.ggml.token_type", Value::I32s(vec![1])),
            "has 1 entries for 56 tokens",
        ),
        (
            with("tokenizer.ggml.merges", Value::Strings(vec!["ab".into()])),
            "'ab' does not join",
        ),
        (
            with("tokenizer.ggml.merges", Value::Strings(vec!["z z".into()])),
            "'z z' does not join",
        ),
        (
            with("tokenizer.ggml.eos_token_id", Value::U32(56)),
            "the vocabulary has 56 tokens",
        ),
        (without("tokenizer.ggml.eos_token_id"), "names no end token"),
        (
            with("tokenizer.ggml.add_bos_token", Value::U32(1)),
            "is an integer; accepted: a boolean",
        ),
        // Templates.
        (
            with("tokenizer.chat_template", text("{% if %}")),
            "the chat template, line 1",
        ),
        (
            with(
                "tokenizer.chat_template",
                text("{{ raise_exception('no') }}"),
            ),
            "no",
        ),
        (
            with(
                "tokenizer.chat_template",
                text(
                    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                ),
            ),
            "steps",
        ),
    ];
    for (at, (file, expected)) in cases.iter().enumerate() {
        let error = match score(&path, &file.bytes()).await {
            // Harmless in the end: it is enough that the process lives.
            Ok(_) if expected.is_empty() => continue,
            scored => scored.expect_err(expected),
        };
        assert!(
            error.contains(expected),
            "case {at}: {error}\nexpected: {expected}"
        );
    }
}

#[tokio::test]
async fn bytes_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.gguf");
    let whole = tiny_llama().bytes();
    let seed: u64 = std::env::var("CHES_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("CHES_FUZZ_SEED={seed}");
    let mut seeded = Seeded(seed);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=seeded.below(3) {
            let at = seeded.below(bytes.len());
            bytes[at] ^= 1 << seeded.below(8);
        }
        refused += usize::from(score(&path, &bytes).await.is_err());
    }
    assert!(
        refused > 100,
        "only {refused} of 3000 damaged files were refused"
    );
}

/// Headers of the other architectures and tokenizers, damaged.
#[tokio::test]
async fn headers_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.gguf");
    let mut seeded = Seeded(7);
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf");
    for file in ["qwen2.gguf", "qwen3.gguf", "gemma.gguf", "llama-q4_0.gguf"] {
        let whole = std::fs::read(goldens.join(file)).unwrap();
        let mut refused = 0;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=seeded.below(3) {
                let at = seeded.below(bytes.len().min(14_000));
                bytes[at] = seeded.below(256) as u8;
            }
            refused += usize::from(score(&path, &bytes).await.is_err());
        }
        println!("{file}: {refused} of 300 were refused");
        assert!(refused > 30, "{file}: only {refused} of 300 were refused");
    }
}

#[tokio::test]
async fn no_file_at_all() {
    let folder = tempfile::tempdir().unwrap();
    for (model, expected) in [
        (None, "ches.model: not set"),
        (
            Some("/nowhere/model.gguf"),
            "/nowhere/model.gguf: No such file",
        ),
        (Some("/dev/zero"), "/dev/zero: not a regular file"),
        (
            folder.path().to_str(),
            "no config.json; found: none of a model's files",
        ),
    ] {
        let settings = ChesSettings {
            model: model.map(str::to_owned),
            ..ChesSettings::default()
        };
        let text = || Text::Plain("a".into());
        let pair = PreferencePair {
            prompt: text(),
            chosen: text(),
            rejected: text(),
            variables: Vec::new(),
        };
        let error = ModelScorer::new()
            .score_pairs(&Job::new(settings.clone(), Needs::all()), vec![pair])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
