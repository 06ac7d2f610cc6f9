//! Which model families are supported, and how a file describes one.

mod gguf;
mod hub;

pub use gguf::{architectures, config_from_gguf, weights_from_gguf};
pub use hub::{HubConfig, config_from_hub, model_types, weights_from_hub};

/// More blocks than any model has: bounds the work that a header can ask for.
const MAX_LAYERS: usize = 4096;

/// Wider than any head: the same.
const MAX_HEAD_DIM: usize = 1 << 16;

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
    if head_dim == 0 || head_dim % 2 == 1 || head_dim > MAX_HEAD_DIM {
        return Err(format!(
            "a head width of {head_dim}; accepted: even sizes up to {MAX_HEAD_DIM}"
        ));
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
    use candle_core::{DType, Device};
    use candle_nn::Activation;
    use std::path::Path;

    use super::*;
    use crate::decoder::{
        Decoder, DecoderConfig, Displacement, Matrix, Predicted, Simulation, Weights,
    };
    use crate::engine::packing::pack;
    use crate::files::gguf::Gguf;
    use crate::files::model_directory::ModelDirectory;
    use crate::files::weights::Target;
    use crate::models::engine::Replica;
    use crate::models::group::{Embedding, Group};
    use crate::scoring::score;
    use crate::texts::sequence::Sequence;

    fn pairs(long_from: Option<usize>) -> Vec<Group> {
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
            let sequences =
                [(plus, 1), (minus, 2)].map(|(n, seed)| sequence(prompt, prompt + n, seed));
            Group::new(sequences.into(), Some(1), long_from)
        };
        vec![pair(3, 5, 4), pair(20, 12, 9), pair(40, 30, 2)]
    }

    /// Each pair's CHES score and log-probability of the chosen response, with the bound that two
    /// implementations agree in.
    fn scores(config: DecoderConfig, weights: Weights) -> Vec<(f64, f64)> {
        let pairs = pairs(config.long_from());
        let decoder = Decoder::new(config, weights, Device::Cpu);
        let decoder = decoder.packed().unwrap();
        let norm = |embedding: &Embedding| {
            let squares = embedding.sum.iter().map(|value| value * value);
            squares.sum::<f64>().sqrt()
        };
        let scored = decoder.forward(&pairs.iter().collect::<Vec<_>>()).unwrap();
        scored
            .into_iter()
            .flat_map(|output| {
                let embeddings = output.embeddings;
                let ches = score::ches(&embeddings[0], &embeddings[1]);
                let (plus, minus) = (norm(&embeddings[0]), norm(&embeddings[1]));
                let log_prob = embeddings[0].log_prob.unwrap();
                [
                    (ches, 1e-4 * ches.abs() + 1e-6 * plus * (plus + minus)),
                    (log_prob, 1e-4 * log_prob.abs()),
                ]
            })
            .collect()
    }

    /// Matrices that stay quantised give the scores of the ones that do not.
    #[test]
    fn quantised_matrices_may_be_kept() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf");
        let gguf = Gguf::open(&folder.join("llama-q4_0.gguf")).unwrap();
        let target = Target::new(Device::Cpu, DType::F32);
        let read = |keeps_quantised| {
            let config = config_from_gguf(&gguf).unwrap();
            let weights = weights_from_gguf(&gguf, &config, &target, keeps_quantised).unwrap();
            let is_kept = matches!(weights.blocks[1].qkv.weight, Matrix::Quantised(_));
            assert_eq!(is_kept, keeps_quantised);
            (config, weights)
        };
        let predicted = [false, true].map(|keeps_quantised| {
            let (config, weights) = read(keeps_quantised);
            let groups = pairs(None).into_iter();
            let groups = groups.map(|group| group.predicting(Predicted::Step(1e-4)));
            let groups: Vec<Group> = groups.collect();
            let decoder = Decoder::new(config, weights, Device::Cpu).packed().unwrap();
            let batch = pack(&groups.iter().collect::<Vec<_>>(), None);
            decoder.run(&batch).unwrap().predictions
        });
        for (dense, kept) in predicted[0].iter().zip(&predicted[1]) {
            let [rates, changes, step, tokens] = apart(dense, kept);
            assert!(rates < 2e-6 && changes < 1e-5 && step < 2e-4 && tokens < 2e-3);
        }
        let [dense, kept] = [false, true].map(|keeps_quantised| {
            let (config, weights) = read(keeps_quantised);
            scores(config, weights)
        });
        assert_eq!(dense.len(), 6);
        for ((dense, bound), (kept, _)) in dense.into_iter().zip(kept) {
            assert!((dense - kept).abs() <= bound, "{dense} and {kept}");
        }
    }

    /// How far apart predictions are: the rates, the changes of tokens, what a step changes, and how it
    /// changes the tokens; each relative to the largest number of its kind.
    fn apart(
        (a, step_a): &(Displacement, Option<Simulation>),
        (b, step_b): &(Displacement, Option<Simulation>),
    ) -> [f64; 4] {
        let relative = |a: &[f64], b: &[f64]| {
            assert_eq!(a.len(), b.len());
            let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
            let largest = a.iter().map(|a| a.abs()).fold(0.0, f64::max);
            differences.fold(0.0, f64::max) / largest
        };
        // Of the tokens that are told of by both.
        let tokens = |a: &[(u32, f64)], b: &[(u32, f64)]| {
            let both = a.iter().filter_map(|(token, change)| {
                let (_, other) = b.iter().find(|(other, _)| other == token)?;
                Some((*change, *other))
            });
            let (a, b): (Vec<_>, Vec<_>) = both.unzip();
            assert!(a.len() > 40);
            relative(&a, &b)
        };
        let (step_a, step_b) = (step_a.as_ref().unwrap(), step_b.as_ref().unwrap());
        [
            relative(&a.rates, &b.rates),
            tokens(&a.changes, &b.changes),
            relative(&step_a.changes, &step_b.changes),
            tokens(&step_a.token_changes, &step_b.token_changes),
        ]
    }

    /// What GPUs run gives what the CPU gives, as far as its type allows.
    #[test]
    fn both_ways_of_taking_the_steps_agree() {
        for family in model_types() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
            let directory = ModelDirectory::open(&folder.join(family).join("model")).unwrap();
            for (dtype, bound, of_predictions) in [
                (DType::F32, 2e-5, [2e-6, 1e-5, 2e-4, 2e-3]),
                (DType::F16, 2e-2, [1e-2, 1e-1, 2e-2, 1e-1]),
                (DType::BF16, 2e-1, [5e-2, 3e-1, 1e-1, 3e-1]),
            ] {
                let device = Device::Cpu;
                let target = Target::new(device, dtype);
                let config = config_from_hub(&directory).unwrap();
                let long_from = config.long_from();
                let groups = pairs(long_from).into_iter();
                let groups = groups.map(|group| group.predicting(Predicted::Step(1e-4)));
                let groups: Vec<Group> = groups.collect();
                let batch = pack(&groups.iter().collect::<Vec<_>>(), long_from);
                let decoder = || {
                    let weights = weights_from_hub(&directory, &config, &target).unwrap();
                    Decoder::new(config.clone(), weights, Device::Cpu)
                };
                let theirs = decoder().by_tensors().run(&batch).unwrap();
                // As on processors without AVX-512.
                let unpacked = decoder().run(&batch).unwrap();
                let ours = decoder().packed().unwrap().run(&batch).unwrap();
                for others in [&theirs, &unpacked] {
                    assert_eq!((ours.predictions.len(), others.predictions.len()), (3, 3));
                    for (a, b) in ours.predictions.iter().zip(&others.predictions) {
                        let differences = apart(a, b);
                        let mut bounds = differences.iter().zip(of_predictions);
                        let is_near = bounds.all(|(difference, bound)| *difference < bound);
                        assert!(is_near, "{family}, {dtype:?}: {differences:?}");
                    }
                }
                let [ours, theirs, unpacked] = [ours, theirs, unpacked].map(|of| of.readouts);
                assert_eq!((ours.len(), theirs.len(), unpacked.len()), (6, 6, 6));
                let others = theirs.iter().zip(&batch.readouts);
                let unpacked = unpacked.iter().zip(&batch.readouts);
                let pairs = ours.iter().chain(&ours).zip(others.chain(unpacked));
                for (a, (b, read)) in pairs {
                    let differences = a.sum.iter().zip(&b.sum).map(|(a, b)| (a - b) * (a - b));
                    let squares = a.sum.iter().map(|a| a * a).sum::<f64>();
                    let difference = (differences.sum::<f64>() / squares).sqrt();
                    assert!(difference < bound, "{family}, {dtype:?}: {difference}");
                    assert_eq!(a.last.len(), b.last.len());
                    let difference = (a.log_prob.unwrap() - b.log_prob.unwrap()).abs();
                    let bound = 10.0 * bound * read.targets.len() as f64;
                    assert!(difference < bound, "{family}, {dtype:?}: {difference}");
                }
            }
        }
    }

    type Change = fn(&mut DecoderConfig, &mut Weights);

    /// The goldens would notice each switch of each family: without it, or with another value, a
    /// score moves by at least ten times the bound of the parity tests. (Of Gemma's activation not
    /// the approximation by tanh, which moves it by less than one.)
    #[test]
    fn every_switch_matters() {
        let theta: Change = |config, _| config.ropes[0].theta *= 2.0;
        let activation: Change = |config, _| {
            config.activation = match config.activation {
                Activation::Silu => Activation::GeluPytorchTanh,
                _ => Activation::Silu,
            }
        };
        let factors: Change = |config, _| config.ropes[0].factors = None;
        let clip: Change = |config, _| config.clip_qkv = None;
        let mean: Change = |_, weights| {
            for block in &mut weights.blocks {
                for norm in [&mut block.attention_norm, &mut block.mlp_norm] {
                    norm.as_mut().unwrap().bias = None;
                }
            }
        };
        let final_mean: Change = |_, weights| weights.final_norm.bias = None;
        let scale: Change = |config, _| config.embedding_scale = None;
        let one: Change = |_, weights| {
            for block in &mut weights.blocks {
                let norm = block.mlp_norm.as_mut().unwrap();
                norm.gain = (&norm.gain - 1.0).unwrap();
            }
        };
        let bias: Change = |_, weights| weights.blocks[0].qkv.bias = None;
        let output_bias: Change = |_, weights| weights.blocks[0].output.bias = None;
        let up_bias: Change = |_, weights| weights.blocks[0].up.bias = None;
        let down_bias: Change = |_, weights| weights.blocks[0].down.bias = None;
        let queries: Change = |_, weights| weights.blocks[0].query_norm = None;
        let keys: Change = |_, weights| weights.blocks[0].key_norm = None;
        let each_head: Change = |config, weights| {
            let norm = weights.blocks[0].query_norm.as_mut().unwrap();
            norm.gain = norm.gain.narrow(0, 0, config.head_dim).unwrap();
        };
        let first_norm: Change = |_, weights| weights.blocks[0].attention_norm = None;
        let post_attention: Change = |_, weights| weights.blocks[0].attention_post_norm = None;
        let post_mlp: Change = |_, weights| weights.blocks[0].mlp_post_norm = None;
        let window: Change = |config, _| {
            for layer in &mut config.layers {
                layer.sliding_window = None;
            }
        };
        let wider: Change = |config, _| {
            for layer in &mut config.layers {
                layer.sliding_window = layer.sliding_window.map(|tokens| tokens + 1);
            }
        };
        let everywhere: Change = |config, _| {
            let window = config.layers.iter().find_map(|layer| layer.sliding_window);
            for layer in &mut config.layers {
                layer.sliding_window = window;
            }
        };
        let attention_scale: Change = |config, _| {
            config.attention_scale = 1.0 / (config.head_dim as f64).sqrt();
        };
        let attention_cap: Change = |config, _| config.attention_cap = None;
        let logit_cap: Change = |config, _| config.logit_cap = None;
        let local_theta: Change = |config, _| config.ropes[1].theta *= 2.0;
        let one_theta: Change = |config, _| config.ropes[1] = config.ropes[0].clone();
        let rotates_all: Change = |config, _| {
            config.ropes[0].dims = config.head_dim;
            config.ropes[0].factors = None;
            config.ropes[0].long = None;
        };
        let magnitude: Change = |config, _| config.ropes[0].magnitude = 1.0;
        let never_long: Change = |config, _| config.ropes[0].long = None;
        let rope_everywhere: Change = |config, _| {
            for layer in &mut config.layers {
                layer.rope = Some(0);
            }
        };
        let serial: Change = |config, _| config.parallel_residual = false;
        let eps: Change = |config, _| config.norm_eps *= 1e3;
        let table: [(&str, &[(&str, Change)]); 12] = [
            (
                "llama",
                &[("rope scaling", factors), ("norm's epsilon", eps)],
            ),
            (
                "olmo",
                &[
                    ("clip", clip),
                    ("mean of the norms", mean),
                    ("mean of the last norm", final_mean),
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
            ("mistral", &[("window", window), ("exact window", wider)]),
            (
                "gemma2",
                &[
                    ("embedding's scale", scale),
                    ("one plus gain", one),
                    ("norm before attention", first_norm),
                    ("norm after attention", post_attention),
                    ("norm after the MLP", post_mlp),
                    ("window", window),
                    ("exact window", wider),
                    ("full attention in between", everywhere),
                    ("scale of queries", attention_scale),
                    ("cap of attention", attention_cap),
                    ("cap of logits", logit_cap),
                ],
            ),
            (
                "olmo2",
                &[
                    ("norm of queries", queries),
                    ("norm of all heads together", each_head),
                    ("norm of keys", keys),
                    ("norm after attention", post_attention),
                    ("norm after the MLP", post_mlp),
                ],
            ),
            (
                "phi3",
                &[
                    ("window", window),
                    ("rest of the head", rotates_all),
                    ("short factors", factors),
                    ("long factors", never_long),
                    ("magnitude", magnitude),
                ],
            ),
            (
                "gemma3_text",
                &[
                    ("embedding's scale", scale),
                    ("one plus gain", one),
                    ("norm of queries", queries),
                    ("norm of keys", keys),
                    ("norm after attention", post_attention),
                    ("norm after the MLP", post_mlp),
                    ("window", window),
                    ("full attention in between", everywhere),
                    ("scale of queries", attention_scale),
                    ("rope scaling", factors),
                    ("base of local rope", local_theta),
                    ("rope of its own", one_theta),
                ],
            ),
            ("smollm3", &[("blocks without rope", rope_everywhere)]),
            (
                "gpt_neox",
                &[
                    ("biases of heads", bias),
                    ("bias of attention", output_bias),
                    ("bias of up", up_bias),
                    ("bias of down", down_bias),
                    ("mean of the norms", mean),
                    ("mean of the last norm", final_mean),
                    ("rest of the head", rotates_all),
                    ("parallel residual", serial),
                ],
            ),
        ];
        assert_eq!(table.map(|(family, _)| family).to_vec(), model_types());
        for (family, changes) in table {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
            let directory = ModelDirectory::open(&folder.join(family).join("model")).unwrap();
            let target = Target::new(Device::Cpu, DType::F32);
            let load = || {
                let config = config_from_hub(&directory).unwrap();
                let weights = weights_from_hub(&directory, &config, &target).unwrap();
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
