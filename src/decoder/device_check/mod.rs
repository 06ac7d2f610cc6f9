//! What a device computes, held against the host.
//!
//! A kernel may fail to start without an error: candle-flash-attn drops the errors of its
//! launches, and what stood in memory before is then taken for a result. A model that opens on a device
//! is therefore computed there and here for a moment.

mod kernels;
mod times;

use candle_core::{DType, Device, Result, Tensor, bail};

pub use kernels::{AttentionShape, attend_on};
pub use times::StepTimes;

use super::attention::{Attention, Pattern, Segment};
use super::backend::{Backend, Heads};
use super::cpu::{CpuBackend, Rows};
use super::gradient_backend::GradientBackend;
use super::rope::Table;
use super::tensors::{AttentionKernel, AttentionPattern, PreparedHeads, TensorBackend};
use super::{Block, Decoder, LayerConfig, Linear, Norm, PackedBatch};

/// Tokens of the sequences that are computed: one, and about what kernels take at a time.
const LENGTHS: [usize; 4] = [1, 127, 129, 300];

/// Then so many tokens that follow one of these sequences, as a response follows its prompt.
const CONTINUED: (usize, usize) = (1, 129);

/// What a block with a window as long as all sequences is compared with besides, so that kernels with a window
/// are computed.
const SHORT_WINDOW: usize = 64;

/// Outputs of a linear map that are compared.
const OUTPUTS: usize = 64;

/// f16's largest number.
const F16_MAX: f32 = 65504.0;

/// What a device was held against.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceCheck {
    /// How many steps were compared.
    pub steps: usize,
    /// The step that was furthest off, of what is accepted for it.
    pub worst: (String, f64),
}

impl Decoder {
    /// Computes the first block of each kind of attention on the device and, from what went into each
    /// step, that step on the host in f32: attention by every kernel that fits, of linear maps some
    /// outputs. No weights are copied but those.
    ///
    /// # Errors
    /// With the step that differs, and by how much.
    pub fn check_device(&self) -> Result<DeviceCheck> {
        let batch = self.check_batch();
        let pattern = |steps: &TensorBackend| {
            let all: Vec<_> = batch.segments.iter().map(|s| s.own.clone()).collect();
            steps.pattern(&batch.segments, &all)
        };
        self.check_blocks(&batch, pattern)
    }

    /// As [`Self::check_device`], with the pattern that the device is told of.
    fn check_blocks(
        &self,
        batch: &PackedBatch,
        pattern: impl FnOnce(&TensorBackend) -> Result<AttentionPattern>,
    ) -> Result<DeviceCheck> {
        let steps = self.tensors();
        let pattern = pattern(&steps)?;
        let mut seen: Vec<&LayerConfig> = Vec::new();
        let mut found = DeviceCheck {
            steps: 0,
            worst: (String::new(), 0.0),
        };
        let layers = self.weights.blocks.iter().zip(&self.config.layers);
        for (number, (block, layer)) in layers.enumerate() {
            if seen.contains(&layer) {
                continue;
            }
            seen.push(layer);
            let compared = self.compared(&steps, batch, &pattern, block, layer);
            for Compared {
                step,
                apart,
                bound,
                too_large,
            } in compared?
            {
                let name = format!("{step} of block {}", number + 1);
                if let Some(value) = too_large {
                    bail!(
                        "{}: {name} has {value:.0}, and f16 no number over {F16_MAX}; accepted: \
                         ches.dtype = 'bf16' or 'f32'",
                        self.where_it_computes()
                    );
                }
                // What is no number is never near.
                let lengths = batch.segments.iter().map(|segment| segment.sequence_tokens);
                for (apart, length) in apart.iter().zip(lengths) {
                    if apart.is_nan() || *apart > bound {
                        let kind = layer.sliding_window.map_or_else(String::new, |window| {
                            format!(" (a window of {window} tokens)")
                        });
                        bail!(
                            "{}: {name}{kind} is not what the host computes: for a sequence of {length} \
                             tokens {apart:.2e} of it is off, and {bound:.0e} would be rounding",
                            self.where_it_computes()
                        );
                    }
                    let of_bound = apart / bound;
                    if found.steps == 0 || of_bound > found.worst.1 {
                        found.worst = (name.clone(), of_bound);
                    }
                }
                found.steps += 1;
            }
        }
        Ok(found)
    }

    fn where_it_computes(&self) -> String {
        let dtype = self.dtype().as_str();
        match self.device.location() {
            candle_core::DeviceLocation::Cpu => format!("cpu in {dtype}"),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id} in {dtype}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id} in {dtype}"),
        }
    }

    /// Sequences of tokens from all over the vocabulary.
    fn check_batch(&self) -> PackedBatch {
        let mut batch = PackedBatch::default();
        for length in LENGTHS {
            let length = length.min(self.config.max_positions);
            let first = batch.tokens.len();
            batch.segments.push(Segment {
                own: first..first + length,
                context: Vec::new(),
                sequence_tokens: length,
            });
            batch.positions.extend(0..length as u32);
            let tokens = (first..first + length)
                .map(|at| (at.wrapping_mul(7919) % self.config.vocab_size) as u32);
            batch.tokens.extend(tokens);
        }
        let (before, more) = CONTINUED;
        let before = batch.segments[before].own.clone();
        let more = more.min(self.config.max_positions.saturating_sub(before.len()));
        if more > 0 {
            let first = batch.tokens.len();
            let positions = before.len()..before.len() + more;
            batch.segments.push(Segment {
                own: first..first + more,
                context: vec![before],
                sequence_tokens: positions.end,
            });
            batch
                .positions
                .extend(positions.map(|position| position as u32));
            let tokens = (first..first + more)
                .map(|at| (at.wrapping_mul(7919) % self.config.vocab_size) as u32);
            batch.tokens.extend(tokens);
        }
        batch
    }

    /// The steps of one block on the batch's embeddings.
    fn compared(
        &self,
        steps: &TensorBackend,
        batch: &PackedBatch,
        pattern: &AttentionPattern,
        block: &Block,
        layer: &LayerConfig,
    ) -> Result<Vec<Compared>> {
        let host = Host {
            cpu: CpuBackend::new(&self.config),
            device: steps,
            lengths: batch.segments.iter().map(|s| s.own.len()).collect(),
            dtype: self.dtype(),
            rounding: rounding(self.dtype()),
        };
        let mut compared = Vec::new();
        let hidden = steps.embed(&self.weights.embedding, &batch.tokens)?;
        let of_attention = match &block.attention_norm {
            None => hidden.clone(),
            Some(norm) => {
                let normed = steps.normed(&hidden, norm)?;
                compared.push(host.normed("the norm before attention", &hidden, norm, &normed)?);
                normed
            }
        };
        let qkv = steps.linear(&of_attention, &block.qkv)?;
        compared.push(host.linear(
            "the projections of attention",
            &of_attention,
            &block.qkv,
            &qkv,
        )?);

        let angles = self.angles(steps, batch)?;
        let heads = steps.prepared(qkv.clone(), &block.heads(layer, &angles))?;
        let tables: Vec<Table> = self.ropes.iter().map(|rope| rope.at(batch)).collect();
        compared.extend(host.prepared(&qkv, block, layer, &tables, &heads)?);
        let attention = self.attention(layer);
        let plain = Pattern::new(
            &batch.segments,
            &batch
                .segments
                .iter()
                .map(|s| s.own.clone())
                .collect::<Vec<_>>(),
        );
        compared.extend(host.attended(&heads, (pattern, &plain), attention)?);
        let longest = batch.segments.iter().map(|s| s.sequence_tokens).max();
        if attention
            .window
            .zip(longest)
            .is_some_and(|(window, longest)| window >= longest)
        {
            let shorter = Attention {
                window: Some(SHORT_WINDOW),
                ..attention
            };
            let of_shorter = host.attended(&heads, (pattern, &plain), shorter)?;
            compared.extend(of_shorter.into_iter().map(|compared| Compared {
                step: format!("{}, over {SHORT_WINDOW} tokens,", compared.step),
                ..compared
            }));
        }

        let attended = steps.attend(qkv, pattern, block.heads(layer, &angles), attention)?;
        let branch = steps.linear(&attended, &block.output)?;
        compared.push(host.linear("the output of attention", &attended, &block.output, &branch)?);
        let norm = block.attention_post_norm.as_ref();
        let after = steps.sum(&hidden, branch.clone(), norm)?;
        compared.push(host.sum("what attention adds", (&hidden, &branch), norm, &after)?);

        let read_by_mlp = match self.config.parallel_residual {
            true => &hidden,
            false => &after,
        };
        let of_mlp = match &block.mlp_norm {
            None => read_by_mlp.clone(),
            Some(norm) => {
                let normed = steps.normed(read_by_mlp, norm)?;
                compared.push(host.normed(
                    "the norm before the MLP",
                    read_by_mlp,
                    norm,
                    &normed,
                )?);
                normed
            }
        };
        let up = steps.linear(&of_mlp, &block.up)?;
        compared.push(host.linear("the MLP's first projection", &of_mlp, &block.up, &up)?);
        let inner = steps.activated(up.clone())?;
        compared.push(host.activated("the MLP's activation", &up, &inner)?);
        let down = steps.linear(&inner, &block.down)?;
        compared.push(host.linear("the MLP's second projection", &inner, &block.down, &down)?);
        let norm = block.mlp_post_norm.as_ref();
        let sum = steps.sum(&after, down.clone(), norm)?;
        compared.push(host.sum("what the MLP adds", (&after, &down), norm, &sum)?);
        Ok(compared)
    }
}

/// A step, on the device and on the host.
struct Compared {
    step: String,
    /// Of each sequence `‖device − host‖ / ‖host‖`.
    apart: Vec<f64>,
    /// What rounding explains.
    bound: f64,
    /// A number that the type has none for.
    too_large: Option<f32>,
}

/// Half the distance of 1 to the next number of a type, or for f32 what summing up in another order does.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-16),
    }
}

/// Half the distance of the smallest numbers of a type, which is what is lost of a number that is as small.
fn smallest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-25),
        // Some devices take what is smaller than normal numbers for zero.
        _ => f64::from(f32::MIN_POSITIVE),
    }
}

/// The host, which repeats the device's steps.
struct Host<'a> {
    cpu: CpuBackend<'a>,
    device: &'a TensorBackend<'a>,
    lengths: Vec<usize>,
    /// The type of the weights.
    dtype: DType,
    rounding: f64,
}

impl Host<'_> {
    fn rows(&self, rows: &Tensor) -> Result<Rows> {
        let rows = rows.flatten_from(1)?;
        let width = rows.dim(1)?;
        Ok(Rows::new(self.device.to_host(&rows)?, width))
    }

    /// What goes into products on the device.
    fn rounded(&self, rows: &Tensor) -> Result<Rows> {
        self.rows(&rows.to_dtype(self.device.dtype)?)
    }

    fn norm(norm: &Norm) -> Result<Norm> {
        let here = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.contiguous();
        Ok(Norm {
            gain: here(&norm.gain)?,
            bias: norm.bias.as_ref().map(here).transpose()?,
        })
    }

    /// A step whose result is f32.
    fn compare(&self, step: &str, device: Vec<f32>, host: &[f32], bound: f64) -> Compared {
        Compared {
            step: step.to_owned(),
            apart: apart(&self.lengths, &device, host, smallest(DType::F32)),
            bound,
            too_large: None,
        }
    }

    /// A step whose result is of the type of the weights.
    fn compare_rounded(&self, step: &str, device: Vec<f32>, host: &[f32], bound: f64) -> Compared {
        let largest = host
            .iter()
            .fold(0.0, |largest: f32, x| largest.max(x.abs()));
        let has_no_number = self.dtype == DType::F16 && largest > F16_MAX;
        Compared {
            step: step.to_owned(),
            apart: apart(&self.lengths, &device, host, smallest(self.dtype)),
            bound,
            too_large: has_no_number.then_some(largest),
        }
    }

    fn normed(&self, step: &str, rows: &Tensor, norm: &Norm, normed: &Tensor) -> Result<Compared> {
        let host = self.cpu.normed(&self.rows(rows)?, &Self::norm(norm)?)?;
        let device = self.device.to_host(normed)?;
        Ok(self.compare(step, device, &host.into_values(), 1e-4))
    }

    fn linear(&self, step: &str, rows: &Tensor, linear: &Linear, out: &Tensor) -> Result<Compared> {
        let width = out.dim(1)?;
        let stride = width.div_ceil(OUTPUTS);
        let mut sampled: Vec<u32> = (0..width).step_by(stride).map(|at| at as u32).collect();
        if self.dtype == DType::F16 {
            // What the type has no number for is in few outputs.
            let sizes = out.to_dtype(DType::F32)?.abs()?.sum(0)?;
            let sizes = sizes.to_vec1::<f32>()?.into_iter().zip(0..);
            let without_number =
                sizes.filter(|(size, at)| !size.is_finite() && at % stride as u32 != 0);
            sampled.extend(without_number.map(|(_, at)| at).take(OUTPUTS));
        }
        let which = Tensor::new(&sampled[..], self.device.device)?;
        let weight = self.device.rows_of(&linear.weight, &sampled)?;
        let bias = linear.bias.as_ref().map(|bias| {
            let bias = bias.to_dtype(DType::F32)?.index_select(&which, 0)?;
            bias.to_device(&Device::Cpu)
        });
        let sample = Linear::new(weight.to_device(&Device::Cpu)?, bias.transpose()?);
        let host = self.cpu.linear(&self.rounded(rows)?, &sample)?;
        let device = out.index_select(&which, 1)?;
        let device = self.device.to_host(&device)?;
        let bound = 8.0 * self.rounding;
        Ok(self.compare_rounded(step, device, &host.into_values(), bound))
    }

    fn prepared(
        &self,
        qkv: &Tensor,
        block: &Block,
        layer: &LayerConfig,
        tables: &[Table],
        heads: &PreparedHeads,
    ) -> Result<Vec<Compared>> {
        let mut host = self.rows(qkv)?;
        let norm = |norm: &Option<Norm>| norm.as_ref().map(Self::norm).transpose();
        let (query_norm, key_norm) = (norm(&block.query_norm)?, norm(&block.key_norm)?);
        let with = Heads {
            query_norm: query_norm.as_ref(),
            key_norm: key_norm.as_ref(),
            angles: layer.rope.map(|rope| &tables[rope]),
        };
        self.cpu.prepare(&mut host, &with)?;
        let width = qkv.dim(1)?;
        let host = host.into_values();
        let mut first = 0;
        let parts = [
            ("the queries", &heads.queries),
            ("the keys", &heads.keys),
            ("the values", &heads.values),
        ];
        let compared = parts.map(|(step, part)| {
            let part = part.flatten_from(1)?;
            let own = first..first + part.dim(1)?;
            first = own.end;
            let rows = host.chunks_exact(width);
            let host: Vec<f32> = rows.flat_map(|row| row[own.clone()].to_vec()).collect();
            let device = self.device.to_host(&part)?;
            Ok(self.compare_rounded(step, device, &host, 4.0 * self.rounding))
        });
        compared.into_iter().collect()
    }

    /// Attention by every kernel, from the same queries, keys and values.
    fn attended(
        &self,
        heads: &PreparedHeads,
        (pattern, plain): (&AttentionPattern, &Pattern),
        attention: Attention,
    ) -> Result<Vec<Compared>> {
        let parts = [&heads.queries, &heads.keys, &heads.values];
        let flat = parts.map(|part| part.flatten_from(1));
        let [queries, keys, values] = flat;
        let qkv = self.rows(&Tensor::cat(&[queries?, keys?, values?], 1)?)?;
        let host = self
            .cpu
            .attend_prepared(&qkv, plain, attention)
            .into_values();
        let mut compared = Vec::new();
        for (kernel, step) in [
            (AttentionKernel::Flash, "attention by flash"),
            (AttentionKernel::Plain, "attention"),
        ] {
            if let Some(attended) = self.device.attend_by(kernel, heads, pattern, attention)? {
                let device = self.device.to_host(&attended)?;
                let largest = self.largest_score(heads, attention)?;
                // Flash bends scores by an instruction that is no better than this (tanh.approx).
                let of_bending = match (kernel, attention.cap) {
                    (AttentionKernel::Flash, Some(cap)) => largest.min(cap) * 2f64.powi(-11),
                    _ => 0.0,
                };
                // Scores are summed up in f32, in another order.
                let of_scores = largest * 2f64.powi(-22);
                let bound = 8.0 * self.rounding + of_bending + of_scores;
                compared.push(self.compare_rounded(step, device, &host, bound));
            }
        }
        Ok(compared)
    }

    /// No score is larger in magnitude: the longest query times the longest key.
    fn largest_score(&self, heads: &PreparedHeads, attention: Attention) -> Result<f64> {
        let longest = |heads: &Tensor| {
            let squares = heads.to_dtype(DType::F32)?.sqr()?.sum(2)?;
            squares.max_all()?.to_scalar::<f32>()
        };
        let squares = f64::from(longest(&heads.queries)?) * f64::from(longest(&heads.keys)?);
        Ok(squares.sqrt() * attention.scale)
    }

    fn activated(&self, step: &str, up: &Tensor, inner: &Tensor) -> Result<Compared> {
        let host = self.cpu.activated(self.rows(up)?)?;
        let device = self.device.to_host(inner)?;
        let bound = 8.0 * self.rounding;
        Ok(self.compare_rounded(step, device, &host.into_values(), bound))
    }

    fn sum(
        &self,
        step: &str,
        (rows, branch): (&Tensor, &Tensor),
        norm: Option<&Norm>,
        sum: &Tensor,
    ) -> Result<Compared> {
        let norm = norm.map(Self::norm).transpose()?;
        let host = self
            .cpu
            .sum(&self.rows(rows)?, self.rows(branch)?, norm.as_ref())?;
        let device = self.device.to_host(sum)?;
        Ok(self.compare(step, device, &host.into_values(), 1e-4))
    }
}

/// Of each sequence `‖device − host‖ / ‖host‖`, where no number is told from one that is nearer than `smallest`.
fn apart(lengths: &[usize], device: &[f32], host: &[f32], smallest: f64) -> Vec<f64> {
    let tokens: usize = lengths.iter().sum();
    let width = host.len() / tokens;
    let mut first = 0;
    let of_sequence = |length: &usize| {
        let own = first * width..(first + length) * width;
        first += length;
        let lost = (own.len() as f64).sqrt() * smallest;
        let (mut differences, mut squares) = (0.0, 0.0);
        for (device, host) in device[own.clone()].iter().zip(&host[own]) {
            differences += (f64::from(*device) - f64::from(*host)).powi(2);
            squares += f64::from(*host).powi(2);
        }
        let differences = differences.sqrt();
        if differences <= lost {
            return 0.0;
        }
        (differences - lost) / squares.sqrt()
    };
    lengths.iter().map(of_sequence).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use candle_nn::Activation;

    use super::*;
    use crate::decoder::{DecoderConfig, RopeConfig, Weights};

    /// Three blocks, the second of which looks back at 64 tokens.
    fn decoder(dtype: DType) -> Decoder {
        decoder_with(dtype, 64, 0.3)
    }

    /// As [`decoder`], with another window, and matrices of numbers of another size.
    fn decoder_with(dtype: DType, window: usize, size: f32) -> Decoder {
        let (hidden, inner, vocab) = (48, 80, 200);
        let layer = |sliding_window| LayerConfig {
            sliding_window,
            rope: Some(0),
        };
        let config = DecoderConfig {
            hidden_size: hidden,
            intermediate_size: inner,
            layers: vec![layer(None), layer(Some(window)), layer(None)],
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab_size: vocab,
            max_positions: 1000,
            norm_eps: 1e-5,
            activation: Activation::Silu,
            gated_mlp: true,
            parallel_residual: false,
            ropes: vec![RopeConfig {
                theta: 1e4,
                dims: 16,
                factors: None,
                long: None,
                magnitude: 1.0,
            }],
            attention_scale: 0.25,
            attention_cap: Some(5.0),
            logit_cap: None,
            embedding_scale: None,
            clip_qkv: None,
        };
        let matrix = |rows: usize, columns: usize| {
            let values = Tensor::randn(0_f32, size, (rows, columns), &Device::Cpu).unwrap();
            values.to_dtype(dtype).unwrap()
        };
        let norm = || Norm {
            gain: Tensor::ones(hidden, DType::F32, &Device::Cpu).unwrap(),
            bias: None,
        };
        let block = |_: &LayerConfig| Block {
            attention_norm: Some(norm()),
            qkv: Linear::plain(matrix(8 * 16, hidden)),
            query_norm: None,
            key_norm: None,
            output: Linear::plain(matrix(hidden, 4 * 16)),
            attention_post_norm: None,
            mlp_norm: Some(norm()),
            up: Linear::plain(matrix(2 * inner, hidden)),
            down: Linear::plain(matrix(hidden, inner)),
            mlp_post_norm: Some(norm()),
        };
        let weights = Weights {
            embedding: matrix(vocab, hidden),
            blocks: config.layers.iter().map(block).collect(),
            final_norm: norm(),
            unembedding: Linear::plain(matrix(vocab, hidden)),
        };
        Decoder::new(config, weights, Device::Cpu).by_tensors()
    }

    #[test]
    fn each_kind_of_attention_is_compared_once() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let check = decoder(dtype).check_device().unwrap();
            // Two kinds: two norms, four maps, three parts, attention, activation and two sums.
            assert_eq!(check.steps, 2 * 13, "{check:?}");
            assert!(check.worst.1 > 0.0 && check.worst.1 < 0.5, "{check:?}");
        }
    }

    #[test]
    fn a_long_window_is_compared_as_a_short_one_too() {
        let check = decoder_with(DType::BF16, 4096, 0.3).check_device().unwrap();
        assert_eq!(check.steps, 2 * 13 + 1, "{check:?}");
        assert!(check.worst.1 < 0.5, "{check:?}");
    }

    #[test]
    fn numbers_that_f16_has_not_are_not_the_device_s_fault() {
        for size in [1e-4, 1e-6] {
            let check = decoder_with(DType::F16, 64, size).check_device().unwrap();
            assert!(check.worst.1 < 1.0, "{check:?}");
        }
        let refusal = decoder_with(DType::F16, 64, 8e3).check_device();
        let refusal = refusal.unwrap_err().to_string();
        let said = "cpu in f16: the projections of attention of block 1 has ";
        assert!(refusal.starts_with(said), "{refusal}");
        assert!(
            refusal.contains("accepted: ches.dtype = 'bf16' or 'f32'"),
            "{refusal}"
        );
    }

    #[test]
    fn a_number_that_f16_has_not_is_found_in_any_output() {
        let mut decoder = decoder(DType::F16);
        let down = Tensor::randn(0_f32, 0.3, (48, 80), &Device::Cpu).unwrap();
        let mut rows = vec![1.0_f32; 48];
        rows[47] = 1e5;
        let rows = Tensor::new(rows, &Device::Cpu)
            .unwrap()
            .unsqueeze(1)
            .unwrap();
        let down = down
            .broadcast_mul(&rows)
            .unwrap()
            .clamp(-6e4_f32, 6e4_f32)
            .unwrap();
        decoder.weights.blocks[0].down = Linear::plain(down.to_dtype(DType::F16).unwrap());
        let refusal = decoder.check_device().unwrap_err().to_string();
        let said = "cpu in f16: the MLP's second projection of block 1 has ";
        assert!(refusal.starts_with(said), "{refusal}");
    }

    #[test]
    fn large_scores_are_not_the_device_s_fault() {
        let mut decoder = decoder(DType::F32);
        // Keys that are alike but for a large part.
        let bias = Tensor::full(100_f32, 8 * 16, &Device::Cpu).unwrap();
        for block in &mut decoder.weights.blocks {
            block.qkv.bias = Some(bias.clone());
        }
        let check = decoder.check_device().unwrap();
        assert!(check.worst.1 < 1.0, "{check:?}");
    }

    #[test]
    fn a_kernel_that_gives_something_else_is_named() {
        let decoder = decoder(DType::BF16);
        let batch = decoder.check_batch();
        // The sequences run into one another.
        let whole = Segment {
            own: 0..batch.tokens.len(),
            context: Vec::new(),
            sequence_tokens: batch.tokens.len(),
        };
        let wrong = |steps: &TensorBackend| steps.pattern(from_ref(&whole), from_ref(&whole.own));
        let refusal = decoder.check_blocks(&batch, wrong).unwrap_err().to_string();
        let said = "cpu in bf16: attention of block 1 is not what the host computes: for a sequence of 127";
        assert!(refusal.starts_with(said), "{refusal}");
    }

    #[test]
    fn what_is_no_number_is_named() {
        let mut decoder = decoder(DType::F32);
        let inner = Tensor::full(f32::NAN, (48, 80), &Device::Cpu).unwrap();
        decoder.weights.blocks[1].down = Linear::plain(inner);
        let refusal = decoder.check_device().unwrap_err().to_string();
        let said = "cpu in f32: the MLP's second projection of block 2 (a window of 64 tokens)";
        assert!(refusal.starts_with(said), "{refusal}");
    }
}
