//! Model directories that lack something, are damaged or made to harm: an error that says what was
//! found, no panic and no hang.

use std::path::Path;

use crate::one_pair::score_one;
use crate::seeded::Seeded;
use crate::support::root;
use datafusion_ches::ches_udfs::PairScores;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a family's tiny model.
fn copy(family: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = root()
        .join("tests/goldens/families")
        .join(family)
        .join("model");
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

async fn score(folder: &Path) -> Result<PairScores, String> {
    score_one(folder, ["Is it safe?", " No.", " Never."]).await
}

fn edit(folder: &TempDir, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join(file);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

async fn assert_refused(folder: &TempDir, says: &str) {
    let found = score(folder.path()).await;
    let error = found.expect_err(says);
    assert!(error.contains(says), "'{error}' does not say '{says}'");
}

#[tokio::test]
async fn as_they_should_be() {
    for family in ["llama", "qwen3"] {
        score(copy(family).path()).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_the_model_does_not_embed() {
    let folder = copy("llama");
    edit(&folder, "tokenizer.json", |tokenizer| {
        let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
        tokens.push(
            json!({"id": 320, "content": "<extra>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}),
        );
    });
    let says = "token '<extra>' has the id 320, and the model's embedding 320 rows";
    score(folder.path()).await.unwrap();
    for texts in [
        ["<extra>", "b", "c"],
        ["a", "b <extra>", "c"],
        ["a", "b", "<extra>c"],
    ] {
        assert_eq!(score_one(folder.path(), texts).await.unwrap_err(), says);
    }
}

#[tokio::test]
async fn files_that_are_missing() {
    for (file, says) in [
        (
            "config.json",
            "no config.json; found: chat_template.jinja, model.safetensors",
        ),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "no model.safetensors; found: "),
    ] {
        let folder = copy("llama");
        std::fs::remove_file(folder.path().join(file)).unwrap();
        assert_refused(&folder, says).await;
    }
    let folder = copy("qwen3");
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_refused(
        &folder,
        "names 'model-00002-of-00002.safetensors', which is missing",
    )
    .await;
    let empty = tempfile::tempdir().unwrap();
    assert_refused(&empty, "found: none of a model's files").await;
}

#[tokio::test]
async fn configurations_that_do_not_fit() {
    let changes: [(&str, Value, &str); 15] = [
        (
            "model_type",
            json!("bert"),
            "model_type 'bert'; supported: llama, olmo, gemma",
        ),
        (
            "hidden_size",
            json!(33),
            "tensor model.embed_tokens.weight has shape [320, 32]",
        ),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("hidden_size", json!(-1), "config.json"),
        ("vocab_size", json!(u64::MAX), "vocab_size is"),
        ("num_hidden_layers", json!(3), "no tensor model.layers.2"),
        (
            "num_hidden_layers",
            json!(1_000_000_000),
            "accepted: up to 4096",
        ),
        (
            "num_attention_heads",
            json!(5),
            "5 heads do not share 2 key heads",
        ),
        ("head_dim", json!(7), "a head width of 7"),
        (
            "head_dim",
            json!(4_000_000_000u64),
            "a head width of 4000000000",
        ),
        (
            "hidden_act",
            json!("relu"),
            "hidden_act 'relu'; supported: silu",
        ),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps is -1"),
        (
            "mlp_bias",
            json!(true),
            "mlp_bias is true; not supported for model_type 'llama'",
        ),
        ("attention_bias", json!(true), "attention_bias is true"),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0}),
            "rope scaling 'yarn'; supported: default, linear, llama3",
        ),
    ];
    for (field, value, says) in changes {
        let folder = copy("llama");
        edit(&folder, "config.json", |config| config[field] = value);
        assert_refused(&folder, says).await;
    }
    let folder = copy("llama");
    edit(&folder, "tokenizer_config.json", |config| {
        config["split_special_tokens"] = json!(true);
    });
    assert_refused(&folder, "split_special_tokens is true").await;
    let folder = copy("llama");
    edit(&folder, "tokenizer.json", |tokenizer| {
        tokenizer["model"]["dropout"] = json!(0.1);
    });
    assert_refused(&folder, "its model has a dropout of 0.1").await;
    let folder = copy("llama");
    std::fs::write(folder.path().join("added_tokens.json"), "{\"<x>\": \"1\"}").unwrap();
    assert_refused(&folder, "added_tokens.json: the id of '<x>' is \"1\"").await;
}

#[tokio::test]
async fn files_made_to_harm() {
    for (file, content, says) in [
        ("config.json", "[".repeat(1 << 20), "config.json"),
        ("config.json", "{\"x\":".repeat(1 << 16), "config.json"),
        ("config.json", "null".into(), "config.json"),
        ("config.json", String::new(), "EOF"),
        ("tokenizer.json", "{}".into(), "tokenizer.json"),
        (
            "tokenizer.json",
            "{\"a\":".repeat(1 << 16),
            "tokenizer.json",
        ),
        (
            "tokenizer_config.json",
            "{\"chat_template\": ".repeat(1 << 16),
            "recursion limit",
        ),
        ("model.safetensors", String::new(), "llama"),
        ("model.safetensors", "x".repeat(100), "llama"),
    ] {
        let folder = copy("llama");
        std::fs::write(folder.path().join(file), content).unwrap();
        let error = score(folder.path()).await.expect_err(file);
        assert!(error.contains(says) || says == "llama", "{file}: {error}");
    }
    // Larger than any description: not read.
    let folder = copy("llama");
    let large = std::fs::File::create(folder.path().join("config.json")).unwrap();
    large.set_len(1 << 40).unwrap();
    assert_refused(&folder, "bytes; accepted: up to").await;
    // An index that leads out of the directory.
    for name in [
        "../../x.safetensors",
        "/etc/x.safetensors",
        "x.bin",
        "",
        "a/b.safetensors",
    ] {
        let folder = copy("qwen3");
        edit(&folder, "model.safetensors.index.json", |index| {
            index["weight_map"]["model.norm.weight"] = json!(name);
        });
        let says = "accepted: .safetensors files of the same directory";
        assert_refused(&folder, says).await;
    }
}

/// A safetensors file of that header, with so many bytes of data.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// What transformers reads another way, or takes a number of its own for, is not guessed.
#[tokio::test]
async fn configurations_that_are_not_clear() {
    for (family, field, value, says) in [
        (
            "gemma2",
            "query_pre_attn_scalar",
            None,
            "no query_pre_attn_scalar",
        ),
        (
            "gemma2",
            "attn_logit_softcapping",
            None,
            "no attn_logit_softcapping",
        ),
        (
            "gemma2",
            "final_logit_softcapping",
            None,
            "no final_logit_softcapping",
        ),
        ("gemma2", "sliding_window", None, "no sliding_window"),
        ("mistral", "sliding_window", None, "no sliding_window"),
        ("gemma", "head_dim", None, "no head_dim"),
        ("qwen3", "head_dim", None, "no head_dim"),
        (
            "qwen2",
            "num_key_value_heads",
            None,
            "no num_key_value_heads",
        ),
        (
            "mistral",
            "layer_types",
            Some(json!(["full_attention", "sliding_attention"])),
            "layer_types makes block 0 another",
        ),
        (
            "qwen2",
            "layer_types",
            Some(json!(["full_attention", "sliding_attention"])),
            "layer_types makes block 1 another",
        ),
        (
            "llama",
            "partial_rotary_factor",
            Some(json!(0.5)),
            "partial_rotary_factor is 0.5; not supported",
        ),
        (
            "llama",
            "clip_qkv",
            Some(json!(0.5)),
            "clip_qkv; not supported",
        ),
        (
            "llama",
            "rope_scaling",
            Some(json!({"type": "linear", "factor": 2.0})),
            "rope_parameters and rope_scaling; accepted: one",
        ),
    ] {
        let folder = copy(family);
        edit(&folder, "config.json", |config| {
            let fields = config.as_object_mut().unwrap();
            match value {
                Some(value) => drop(fields.insert(field.into(), value)),
                None => drop(fields.remove(field)),
            }
        });
        assert_refused(&folder, says).await;
    }
    let folder = copy("llama");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    edit(&folder, "tokenizer_config.json", |config| {
        config["chat_template"] = json!([{"name": "rag", "template": "{{ 1 }}"}]);
    });
    assert_refused(&folder, "of the templates [rag] none is 'default'").await;
}

/// Ways of writing what is clear.
#[tokio::test]
async fn configurations_as_older_versions_write_them() {
    let right = score(copy("llama").path()).await.unwrap();
    let folder = copy("llama");
    edit(&folder, "config.json", |config| {
        let mut rope = config["rope_parameters"].take();
        config.as_object_mut().unwrap().remove("rope_parameters");
        config["rope_theta"] = rope["rope_theta"].take();
        rope.as_object_mut().unwrap().remove("rope_theta");
        rope["type"] = rope["rope_type"].clone();
        config["rope_scaling"] = rope;
        config["bos_token_id"] = json!(-1);
        config["eos_token_id"] = json!([1, 3]);
        config["sliding_window"] = json!(null);
    });
    let older = score(folder.path()).await.unwrap();
    assert_eq!(older.ches, right.ches);
    assert_eq!(older.chosen_logprob, right.chosen_logprob);

    // A template's bos_token is what the tokenizer's configuration says, not the model's.
    let with = |bos: Value, template: &str| {
        let folder = copy("qwen2");
        let template = format!(
            "{template}{{% for m in messages %}}{{{{ m.content }}}}<|im_end|>{{% endfor %}}"
        );
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        edit(&folder, "tokenizer_config.json", |config| {
            config["bos_token"] = bos
        });
        folder
    };
    let tokens = async |folder: TempDir| score(folder.path()).await.unwrap().prompt_tokens.unwrap();
    let without = tokens(with(json!("<s>"), "")).await;
    assert_eq!(
        tokens(with(json!("<s>"), "{{ bos_token }}")).await,
        without + 1
    );
    assert_eq!(tokens(with(json!(null), "{{ bos_token }}")).await, without);
}

#[tokio::test]
async fn weights_made_to_harm() {
    let tensor = |shape: &[u64], offsets: [u64; 2]| json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
    let files = [
        // Overlapping, beyond the end, backwards, of a size that overflows.
        json!({"a": tensor(&[2], [0, 8]), "b": tensor(&[2], [4, 12])}),
        json!({"a": tensor(&[2], [0, 1 << 60])}),
        json!({"a": tensor(&[2], [8, 0])}),
        json!({"a": tensor(&[u64::MAX, u64::MAX], [0, 8])}),
        json!({"a": tensor(&[1 << 62, 4], [0, 0])}),
        json!({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}),
    ];
    for header in files {
        let folder = copy("llama");
        let file = folder.path().join("model.safetensors");
        std::fs::write(file, safetensors(&header, 16)).unwrap();
        assert!(score(folder.path()).await.is_err(), "{header}");
    }
    let mut header_only = u64::MAX.to_le_bytes().to_vec();
    header_only.extend(b"{}");
    let folder = copy("llama");
    std::fs::write(folder.path().join("model.safetensors"), header_only).unwrap();
    assert!(score(folder.path()).await.is_err());
}

/// Weights that are not finite are refused by name, as in a GGUF file.
#[tokio::test]
async fn weights_that_are_not_finite() {
    let folder = copy("llama");
    let file = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
    assert_refused(&folder, "values that are not finite").await;
}

/// Bytes of the descriptions and of the weights' header changed at random, with a seed: scores, or
/// an error.
#[tokio::test]
async fn bytes_changed() {
    let mut seeded = Seeded(1);
    let mut refused = 0;
    let families = datafusion_ches::families::model_types();
    let tries = 100 * families.len();
    for at in 0..tries {
        let family = families[at % families.len()];
        let folder = copy(family);
        let files = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            if folder.path().join("model.safetensors").exists() {
                "model.safetensors"
            } else {
                "model.safetensors.index.json"
            },
        ];
        let file = folder.path().join(files[seeded.below(files.len())]);
        let mut bytes = std::fs::read(&file).unwrap();
        let within = bytes.len().min(2500);
        for _ in 0..=seeded.below(3) {
            bytes[seeded.below(within)] = seeded.below(256) as u8;
        }
        std::fs::write(&file, bytes).unwrap();
        refused += usize::from(score(folder.path()).await.is_err());
    }
    println!("{refused} of {tries} were refused");
    assert!(refused > tries / 4 && refused < tries);
}

/// Every field of every family's configuration, one at a time, as something else.
#[tokio::test]
async fn fields_changed() {
    let values = [
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(4_294_967_295u32),
        json!(18_446_744_073_709_551_615u64),
        json!(1e308),
        json!(1e-320),
        json!("x"),
        json!([]),
        json!({}),
        json!([1, "x", null]),
        json!(true),
    ];
    let (mut refused, mut tries) = (0, 0);
    for family in datafusion_ches::families::model_types() {
        let folder = copy(family);
        let config = folder.path().join("config.json");
        let right: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        for key in right.as_object().unwrap().keys() {
            for value in &values {
                let mut wrong = right.clone();
                match wrong[key].as_object_mut() {
                    // All fields within, too: RoPE's.
                    Some(fields) => fields.values_mut().for_each(|field| *field = value.clone()),
                    None => wrong[key] = value.clone(),
                }
                std::fs::write(&config, wrong.to_string()).unwrap();
                tries += 1;
                refused += usize::from(score(folder.path()).await.is_err());
            }
        }
    }
    println!("{refused} of {tries} were refused");
    assert!(refused > tries / 4 && refused < tries);
}
