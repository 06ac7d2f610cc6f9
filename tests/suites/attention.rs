//! Attention by each of the kernels that fit a device, against the definition, computed here in f64.

use std::ops::Range;

use candle_core::DType;
use datafusion_ches::decoder::{AttentionKernel, AttentionShape, Segment, attend_on};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Check, Subject};

/// One batch.
struct Case {
    name: String,
    shape: AttentionShape,
    segments: Vec<Segment>,
}

/// Sequences that share nothing.
fn apart(lengths: &[usize]) -> Vec<Segment> {
    let nothing: Vec<(usize, &[usize])> = lengths.iter().map(|length| (*length, &[][..])).collect();
    segments(&nothing)
}

/// Segments of so many tokens, each after the segments of these numbers.
fn segments(described: &[(usize, &[usize])]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut first = 0;
    for (length, after) in described {
        let context: Vec<Range<usize>> = after.iter().map(|at| segments[*at].own.clone()).collect();
        let before: usize = context.iter().map(Range::len).sum();
        segments.push(Segment {
            own: first..first + length,
            context,
            sequence_tokens: before + length,
        });
        first += length;
    }
    segments
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        cap: None,
        window: None,
    }
}

fn cases() -> Vec<Case> {
    let lengths = [1, 2, 127, 128, 129, 1000];
    let mut cases = vec![
        Case {
            name: "lengths 1 to 1000".into(),
            shape: shape(4, 2, 64),
            segments: apart(&lengths),
        },
        Case {
            name: "4097 tokens".into(),
            shape: shape(1, 1, 64),
            segments: apart(&[4097]),
        },
    ];
    for window in [1, 2, 8, 127, 128, 129] {
        cases.push(Case {
            name: format!("window {window}"),
            shape: AttentionShape {
                window: Some(window),
                ..shape(2, 1, 64)
            },
            segments: apart(&lengths),
        });
    }
    cases.push(Case {
        name: "window 1000 of 4097 tokens".into(),
        shape: AttentionShape {
            window: Some(1000),
            ..shape(1, 1, 128)
        },
        segments: apart(&[4097]),
    });
    for cap in [2.0, 50.0] {
        for window in [None, Some(16)] {
            cases.push(Case {
                name: format!("cap {cap}, window {window:?}"),
                shape: AttentionShape {
                    cap: Some(cap),
                    window,
                    ..shape(2, 1, 64)
                },
                segments: apart(&[1, 2, 129, 300]),
            });
        }
    }
    // A prompt and two responses, prompts that begin alike, and a long one that many share.
    let pair: &[(usize, &[usize])] = &[(129, &[]), (128, &[0]), (1, &[0])];
    let nested: &[(usize, &[usize])] = &[
        (1000, &[]),
        (127, &[0]),
        (2, &[0, 1]),
        (129, &[0, 1]),
        (128, &[0]),
        (1, &[0, 4]),
        (4, &[0, 4]),
    ];
    let mut many: Vec<(usize, &[usize])> = vec![(1000, &[])];
    many.extend([(5, &[0][..]); 24]);
    for (name, described) in [("pair", pair), ("nested", nested), ("many", &many)] {
        for window in [None, Some(8), Some(300)] {
            cases.push(Case {
                name: format!("shared prefixes ({name}), window {window:?}"),
                shape: AttentionShape {
                    window,
                    ..shape(4, 2, 64)
                },
                segments: segments(described),
            });
        }
    }
    for head_dim in [8, 16, 32, 40, 64, 80, 96, 112, 128, 160, 192, 256] {
        cases.push(Case {
            name: format!("heads of width {head_dim}"),
            shape: shape(2, 1, head_dim),
            segments: apart(&[1, 127, 129, 300]),
        });
    }
    for (heads, kv_heads) in [(1, 1), (4, 4), (8, 2), (6, 3), (9, 3)] {
        cases.push(Case {
            name: format!("{heads} heads, {kv_heads} key heads"),
            shape: shape(heads, kv_heads, 64),
            segments: apart(&[1, 127, 129, 300]),
        });
    }
    cases
}

/// Numbers of about normal distribution: a sum of four from −1 to 1 (splitmix64).
fn noise(at: usize) -> f32 {
    let mut state = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..4).map(|_| next()).sum::<f32>() * 0.866
}

impl Case {
    fn width(&self) -> usize {
        (self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_dim
    }

    /// Queries, keys and values as the type has them. Queries are three times as large as keys, so that
    /// some keys matter more than others.
    fn qkv(&self, dtype: DType) -> Vec<f32> {
        let tokens: usize = self.segments.iter().map(|segment| segment.own.len()).sum();
        let (width, of_queries) = (self.width(), self.shape.heads * self.shape.head_dim);
        let number = |at: usize| {
            let number = noise(at) * if at % width < of_queries { 3.0 } else { 1.0 };
            match dtype {
                DType::BF16 => bf16::from_f32(number).to_f32(),
                DType::F16 => f16::from_f32(number).to_f32(),
                _ => number,
            }
        };
        (0..tokens * width).into_par_iter().map(number).collect()
    }

    /// The definition: softmax of what queries and keys give, times values.
    fn reference(&self, qkv: &[f32]) -> Vec<f64> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            cap,
            window,
        } = self.shape;
        let width = self.width();
        let part = |token: usize, head: usize| {
            let first = token * width + head * head_dim;
            &qkv[first..first + head_dim]
        };
        let of_query = |context: &[usize], head: usize| {
            let key_head = head / (heads / kv_heads);
            let query = part(context[context.len() - 1], head);
            let seen = window.map_or(0, |window| context.len().saturating_sub(window));
            let scores: Vec<f64> = context[seen..]
                .iter()
                .map(|key| {
                    let key = part(*key, heads + key_head);
                    let products = query.iter().zip(key);
                    let score = products.map(|(q, k)| f64::from(*q) * f64::from(*k));
                    let score = score.sum::<f64>() * scale;
                    cap.map_or(score, |cap| cap * (score / cap).tanh())
                })
                .collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut out = vec![0.0; head_dim];
            let mut sum = 0.0;
            for (score, key) in scores.iter().zip(&context[seen..]) {
                let weight = (score - highest).exp();
                sum += weight;
                let value = part(*key, heads + kv_heads + key_head);
                for (out, value) in out.iter_mut().zip(value) {
                    *out += weight * f64::from(*value);
                }
            }
            out.into_iter().map(move |out| out / sum)
        };
        let queries: Vec<(&Segment, usize)> = self
            .segments
            .iter()
            .flat_map(|segment| segment.own.clone().map(move |own| (segment, own)))
            .collect();
        queries
            .into_par_iter()
            .flat_map_iter(|(segment, own)| {
                let before = segment.context.iter().cloned().flatten();
                let context: Vec<usize> = before.chain(segment.own.start..own + 1).collect();
                let heads =
                    (0..heads).flat_map(|head| of_query(&context, head).collect::<Vec<_>>());
                heads.collect::<Vec<_>>()
            })
            .collect()
    }

    /// The largest error of a segment, relative to its numbers.
    fn error(&self, found: &[f32], reference: &[f64]) -> f64 {
        let width = self.shape.heads * self.shape.head_dim;
        let mut worst: f64 = 0.0;
        for segment in &self.segments {
            let own = segment.own.start * width..segment.own.end * width;
            let (mut differences, mut squares) = (0.0, 0.0);
            for (found, reference) in found[own.clone()].iter().zip(&reference[own]) {
                differences += (f64::from(*found) - reference).powi(2);
                squares += reference.powi(2);
            }
            let error = (differences / squares).sqrt();
            if error.is_nan() {
                return f64::NAN;
            }
            worst = worst.max(error);
        }
        worst
    }
}

/// What rounding explains. Flash bends scores by an instruction that is good to 2⁻¹¹ (tanh.approx); they are up to
/// about 12 here.
fn accepted(kernel: AttentionKernel, dtype: DType, cap: Option<f64>) -> f64 {
    let of_bending = match (kernel, cap) {
        (AttentionKernel::Flash, Some(cap)) => cap.min(12.0) / 2048.0,
        _ => 0.0,
    };
    let of_rounding = match dtype {
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
        _ => 1e-5,
    };
    of_rounding + of_bending
}

/// Lengths, windows, caps, shared prefixes, widths and numbers of heads, in every type.
pub(crate) fn against_its_definition(subject: &Subject) -> Vec<Check> {
    let device = datafusion_ches::devices(&subject.device)
        .unwrap()
        .swap_remove(0);
    let mut checks = Vec::new();
    for case in cases() {
        for (dtype, name) in [
            (DType::F32, "f32"),
            (DType::BF16, "bf16"),
            (DType::F16, "f16"),
        ] {
            let qkv = case.qkv(dtype);
            let reference = case.reference(&qkv);
            for (kernel, by) in [
                (AttentionKernel::Plain, "plain"),
                (AttentionKernel::Flash, "flash"),
            ] {
                let found = attend_on(&device, dtype, kernel, case.shape, &case.segments, &qkv);
                let (error, detail) = match found {
                    Ok(None) => continue,
                    Ok(Some(found)) => {
                        let error = case.error(&found, &reference);
                        (error, format!("{error:.1e}"))
                    }
                    Err(error) => (f64::NAN, error.to_string()),
                };
                checks.push(Check {
                    name: format!("{by} attention, {name}, {}", case.name),
                    of_bound: error / accepted(kernel, dtype, case.shape.cap),
                    detail,
                });
            }
        }
    }
    checks
}
