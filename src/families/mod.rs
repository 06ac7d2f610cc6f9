//! Which model families are supported, and how a file describes one.

mod gguf;
mod hugging_face;

pub use gguf::{config_from_gguf, weights_from_gguf};
pub use hugging_face::{HubConfig, config_from_hub, model_types, weights_from_hub};

/// More blocks than any model has: bounds the work that a header can ask for.
const MAX_LAYERS: usize = 4096;

/// The number of key heads and the width of a head, where a file may leave out either.
fn key_heads_and_width(
    hidden_size: usize,
    heads: usize,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
) -> Result<(usize, usize), String> {
    let kv_heads = kv_heads.unwrap_or(heads);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(format!("{heads} heads do not share {kv_heads} key heads"));
    }
    let head_dim = match head_dim {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(format!("{heads} heads do not divide width {hidden_size}")),
    };
    if head_dim == 0 || head_dim % 2 == 1 {
        return Err(format!("a head width of {head_dim}; accepted: even sizes"));
    }
    Ok((kv_heads, head_dim))
}

/// A number of blocks, if a model may have so many.
fn bounded_layers(layers: usize) -> Result<usize, String> {
    if layers > MAX_LAYERS {
        return Err(format!("{layers} blocks; accepted: up to {MAX_LAYERS}"));
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use candle_core::Device;
    use candle_nn::Activation;

    use super::*;
    use crate::decoder::{Decoder, DecoderConfig, Weights};
    use crate::engine::{Embedding, Engine, Group};
    use crate::model_directory::ModelDirectory;
    use crate::score;
    use crate::sequence::Sequence;

    fn pairs() -> Vec<Group> {
        let sequence = |prompt: u32, length: u32, seed: u32| {
            let id = |at: u32| {
                let seed = if at < prompt { 7 } else { seed };
                4 + (at * 37 + seed * 101 + at * at * seed) % 300
            };
            Sequence {
                ids: (0..length).map(id).collect(),
                prompt_tokens: prompt as usize,
                truncated: false,
            }
        };
        let pair = |prompt, plus, minus| {
            Group::new(vec![
                sequence(prompt, prompt + plus, 1),
                sequence(prompt, prompt + minus, 2),
            ])
        };
        vec![pair(3, 5, 4), pair(20, 12, 9), pair(40, 30, 2)]
    }

    /// Each pair's CHES score, with the bound that two implementations of it agree in.
    fn scores(config: DecoderConfig, weights: Weights) -> Vec<(f64, f64)> {
        let decoder = Decoder::new(config, weights, Device::Cpu);
        let engine = Engine {
            decoder: &decoder,
            end_token: None,
            cancelled: &AtomicBool::new(false),
            finished: &|_| {},
        };
        let norm = |embedding: &Embedding| {
            let squares = embedding.sum.iter().map(|value| value * value);
            squares.sum::<f64>().sqrt()
        };
        let scored = engine.run(&pairs()).unwrap();
        scored
            .into_iter()
            .map(|embeddings| {
                let embeddings = embeddings.unwrap();
                let ches = score::ches(&embeddings[0], &embeddings[1]);
                let (plus, minus) = (norm(&embeddings[0]), norm(&embeddings[1]));
                (ches, 1e-4 * ches.abs() + 1e-6 * plus * (plus + minus))
            })
            .collect()
    }

    type Change = fn(&mut DecoderConfig, &mut Weights);

    /// The goldens would notice each switch of each family: without it, or with another value, a
    /// score moves by at least ten times the bound of the parity tests. (Of Gemma's activation not
    /// the approximation by tanh, which moves it by less than one.)
    #[test]
    fn every_switch_matters() {
        let theta: Change = |config, _| config.rope.theta *= 2.0;
        let activation: Change = |config, _| {
            config.activation = match config.activation {
                Activation::Silu => Activation::GeluPytorchTanh,
                _ => Activation::Silu,
            }
        };
        let factors: Change = |config, _| config.rope.factors = None;
        let clip: Change = |config, _| config.clip_qkv = None;
        let mean: Change = |_, weights| {
            for block in &mut weights.blocks {
                (block.attention_norm.bias, block.mlp_norm.bias) = (None, None);
            }
        };
        let final_mean: Change = |_, weights| weights.final_norm.bias = None;
        let scale: Change = |config, _| config.embedding_scale = None;
        let one: Change = |_, weights| {
            for block in &mut weights.blocks {
                block.mlp_norm.gain = (&block.mlp_norm.gain - 1.0).unwrap();
            }
        };
        let bias: Change = |_, weights| weights.blocks[0].qkv_bias = None;
        let queries: Change = |_, weights| weights.blocks[0].query_norm = None;
        let keys: Change = |_, weights| weights.blocks[0].key_norm = None;
        let window: Change = |config, _| config.sliding_window = None;
        let wider: Change = |config, _| config.sliding_window = Some(6);
        let eps: Change = |config, _| config.norm_eps *= 1e3;
        let table: [(&str, &[(&str, Change)]); 6] = [
            (
                "llama",
                &[("rope scaling", factors), ("norm's epsilon", eps)],
            ),
            (
                "olmo",
                &[
                    ("clip", clip),
                    ("mean of the norms", mean),
                    ("of the last", final_mean),
                ],
            ),
            (
                "gemma",
                &[("embedding's scale", scale), ("one plus gain", one)],
            ),
            ("qwen2", &[("bias", bias)]),
            (
                "qwen3",
                &[("norm of queries", queries), ("norm of keys", keys)],
            ),
            ("mistral", &[("window", window), ("window of six", wider)]),
        ];
        assert_eq!(table.map(|(family, _)| family).to_vec(), model_types());
        for (family, changes) in table {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
            let directory = ModelDirectory::open(&folder.join(family).join("model")).unwrap();
            let load = || {
                let config = config_from_hub(&directory).unwrap();
                let weights = weights_from_hub(&directory, &config, &Device::Cpu).unwrap();
                (config, weights)
            };
            let (config, weights) = load();
            let right = scores(config, weights);
            let common = [("rope's base", theta), ("activation", activation)];
            for (name, change) in changes.iter().chain(&common) {
                let (mut config, mut weights) = load();
                change(&mut config, &mut weights);
                let wrong = scores(config, weights);
                let bounds = right.iter().zip(&wrong);
                let moved = bounds.map(|((a, bound), (b, _))| (a - b).abs() / bound);
                let moved = moved.fold(0.0, f64::max);
                println!("{family}: without {name} {moved:.0} bounds");
                assert!(
                    moved >= 10.0,
                    "{family}: without {name} only {moved} bounds"
                );
            }
        }
    }
}
