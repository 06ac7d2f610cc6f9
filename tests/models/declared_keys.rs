//! Nothing of a model directory is ignored silently: tensors and keys are read, skipped by a rule,
//! warned of or refused, for each family.

use std::path::{Path, PathBuf};

use crate::one_pair::score_one;
use crate::support::root;
use datafusion_ches::ches_udfs::PairScores;
use datafusion_ches::families::model_types;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
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

/// A copy with some fields of its configuration set, or removed.
fn with_fields(family: &str, fields: &[(&str, Option<Value>)]) -> TempDir {
    let folder = copy(family);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let keys = config.as_object_mut().unwrap();
    for (key, value) in fields {
        match value {
            Some(value) => drop(keys.insert((*key).to_owned(), value.clone())),
            None => drop(keys.remove(*key)),
        }
    }
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

/// The first of a model's files of tensors.
fn tensors_of(folder: &TempDir) -> PathBuf {
    let whole = folder.path().join("model.safetensors");
    if whole.exists() {
        whole
    } else {
        folder.path().join("model-00001-of-00002.safetensors")
    }
}

/// Adds a tensor of four numbers to a model.
fn add_tensor(folder: &TempDir, name: &str) {
    let numbers: Vec<u8> = [0.5f32; 4].iter().flat_map(|n| n.to_le_bytes()).collect();
    let added = TensorView::new(Dtype::F32, vec![4], &numbers).unwrap();
    let path = tensors_of(folder);
    let bytes = std::fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.push((name.to_owned(), added));
    std::fs::write(path, serialize(tensors, None).unwrap()).unwrap();
}

/// Removes a tensor, or gives it another name.
fn rename_tensor(folder: &TempDir, name: &str, to: Option<&str>) {
    let path = tensors_of(folder);
    let bytes = std::fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let at = tensors.iter().position(|(found, _)| found == name);
    let (_, tensor) = tensors.swap_remove(at.unwrap());
    if let Some(to) = to {
        tensors.push((to.to_owned(), tensor));
    }
    std::fs::write(path, serialize(tensors, None).unwrap()).unwrap();
}

async fn assert_refused(folder: &TempDir, says: &[&str]) {
    let error = score(folder.path()).await.expect_err(says[0]);
    for says in says {
        assert!(error.contains(says), "'{error}' does not say '{says}'");
    }
}

async fn assert_same(folder: &TempDir, right: &PairScores, what: &str) {
    let found = score(folder.path()).await;
    let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(found.ches, right.ches, "{what}");
    assert_eq!(found.chosen_logprob, right.chosen_logprob, "{what}");
}

#[tokio::test]
async fn tensors_besides() {
    for family in model_types() {
        let right = score(copy(family).path()).await.unwrap();
        let layers = match family {
            "gpt_neox" => "gpt_neox.layers",
            _ => "model.layers",
        };
        for name in [
            format!("{layers}.0.self_attn.rotary_emb.inv_freq"),
            "model.rotary_emb.inv_freq".into(),
            "mtp.layers.0.weight".into(),
            "model.vision_tower.patches.weight".into(),
        ] {
            let folder = copy(family);
            add_tensor(&folder, &name);
            assert_same(&folder, &right, &format!("{family} with {name}")).await;
        }
        for (name, advice) in [
            (format!("{layers}.0.surprise.weight"), "mend config.json"),
            (
                format!("{layers}.2.mlp.down_proj.weight"),
                "with 2 blocks has no such tensors",
            ),
            (
                format!("{layers}.0.mlp.down_proj.lora_A.weight"),
                "merge the adapter",
            ),
            ("score.weight".into(), "without the other head"),
            ("lm_head.bias".into(), "mend config.json"),
        ] {
            let folder = copy(family);
            add_tensor(&folder, &name);
            let count = "1 of its tensors would not be read";
            assert_refused(&folder, &[&name, count, advice]).await;
        }
    }
    let right = score(copy("gpt_neox").path()).await.unwrap();
    for name in ["attention.bias", "attention.masked_bias"] {
        let name = format!("gpt_neox.layers.0.{name}");
        let folder = copy("gpt_neox");
        add_tensor(&folder, &name);
        assert_same(&folder, &right, &name).await;
        let folder = copy("llama");
        add_tensor(&folder, &name);
        assert_refused(&folder, &[&name]).await;
    }
}

#[tokio::test]
async fn keys_that_are_declared() {
    for family in model_types() {
        for (key, value, accepted) in [
            ("is_causal", json!(false), "true"),
            ("is_causal", json!(null), "true"),
            ("tie_last_hidden_states", json!(false), "null, true"),
            ("quantization_config", json!({"bits": 4}), "null"),
            ("transformers_weights", json!("x.safetensors"), "null"),
            (
                "architectures",
                json!(["LlamaForSequenceClassification"]),
                "names that end in ForCausalLM",
            ),
        ] {
            let folder = with_fields(family, &[(key, Some(value.clone()))]);
            let found = format!("`{key}` {value}, which is not implemented");
            let accepted = format!("model_type '{family}'; accepted: {accepted}");
            assert_refused(&folder, &[&found, &accepted]).await;
        }
    }
    for (family, key, value) in [
        ("llama", "mlp_bias", json!(true)),
        ("llama", "attention_bias", json!(true)),
        ("gpt_neox", "attention_bias", json!(false)),
        ("gpt_neox", "head_dim", json!(6)),
        ("qwen2", "use_sliding_window", json!(true)),
        ("gemma", "use_bidirectional_attention", json!(true)),
        ("olmo", "partial_rotary_factor", json!(0.5)),
        ("gemma2", "sliding_window", json!(null)),
    ] {
        let folder = with_fields(family, &[(key, Some(value))]);
        assert_refused(&folder, &[key]).await;
    }
}

#[tokio::test]
async fn keys_that_are_not_declared() {
    for family in model_types() {
        let right = score(copy(family).path()).await.unwrap();
        let fields = [
            ("surprise", Some(json!({"x": 1}))),
            ("residual_multiplier", Some(json!(2.0))),
            // Declared, but of no score.
            ("attention_dropout", Some(json!(0.5))),
            ("transformers_version", None),
        ];
        let folder = with_fields(family, &fields);
        assert_same(&folder, &right, family).await;
    }
    // Names that other types read.
    for (family, key, value) in [
        ("llama", "hidden_activation", json!("gelu")),
        ("gemma2", "hidden_act", json!("gelu")),
        ("gemma2", "sliding_window_pattern", json!(1)),
        ("gpt_neox", "rope_theta", json!(5.0)),
    ] {
        let right = score(copy(family).path()).await.unwrap();
        let folder = with_fields(family, &[(key, Some(value))]);
        assert_same(&folder, &right, &format!("{family} with {key}")).await;
    }
}

/// What transformers takes where a key is missing, or written in a place where it does not look.
#[tokio::test]
async fn what_is_not_said() {
    for family in model_types() {
        // Each is stored as its class has it, but for this one.
        if family != "qwen3" {
            let right = score(copy(family).path()).await.unwrap();
            let folder = with_fields(family, &[("tie_word_embeddings", None)]);
            assert_same(&folder, &right, family).await;
        }
    }
    let untied = "tie_word_embeddings is false";
    let folder = with_fields("qwen3", &[("tie_word_embeddings", None)]);
    assert_refused(&folder, &["no tensor lm_head.weight", untied]).await;
    let folder = copy("llama");
    rename_tensor(&folder, "lm_head.weight", None);
    assert_refused(&folder, &["no tensor lm_head.weight", untied]).await;

    let right = score(copy("gpt_neox").path()).await.unwrap();
    let folder = copy("gpt_neox");
    rename_tensor(&folder, "embed_out.weight", Some("lm_head.weight"));
    assert_same(&folder, &right, "lm_head").await;

    let theta = json!({"rope_type": "default", "rope_theta": 5.0});
    for (family, rope, says) in [
        ("gemma3_text", theta.clone(), "needs both"),
        (
            "llama",
            json!({"full_attention": theta.clone()}),
            "not supported for model_type 'llama'",
        ),
        (
            "phi3",
            json!({"rope_type": "linear", "factor": 2.0}),
            "default, longrope",
        ),
        (
            "llama",
            json!({"rope_type": "yarn", "short_factor": [1.0], "long_factor": [1.0]}),
            "rope scaling 'yarn'",
        ),
    ] {
        let folder = with_fields(family, &[("rope_parameters", Some(rope))]);
        assert_refused(&folder, &[says]).await;
    }
    let scaling = json!({"type": "linear", "factor": 2.0});
    let fields = [("rope_parameters", None), ("rope_scaling", Some(scaling))];
    let folder = with_fields("gemma3_text", &fields);
    assert_refused(&folder, &["needs rope_type"]).await;
}

#[tokio::test]
async fn files_besides() {
    let right = score(copy("llama").path()).await.unwrap();
    let folder = copy("llama");
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    assert_refused(
        &folder,
        &["adapter_config.json beside config.json", "merge it"],
    )
    .await;
    let folder = copy("llama");
    let part = "shard-00001-model-00001-of-00001.safetensors";
    std::fs::write(folder.path().join(part), "").unwrap();
    assert_refused(&folder, &[part, "distributed checkpoint"]).await;
    let folder = copy("llama");
    std::fs::write(folder.path().join("consolidated.safetensors"), "").unwrap();
    assert_same(&folder, &right, "a file that is not read").await;
}
