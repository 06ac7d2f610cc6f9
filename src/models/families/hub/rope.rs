//! The rotary position embeddings that a `config.json` asks for, after `modeling_rope_utils.py`
//! of transformers.

use serde::Deserialize;

use super::{Family, HubConfig, Layout, positive, required};
use crate::decoder::{LongRope, RopeConfig};

/// `rope_parameters` or `rope_scaling`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RopeParameters {
    rope_type: Option<String>,
    /// What `rope_type` was called first.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    attention_factor: Option<f64>,
    /// The parameters of blocks without a window, where blocks with one have others.
    full_attention: Option<Box<RopeParameters>>,
    /// The parameters of blocks with a window.
    sliding_attention: Option<Box<RopeParameters>>,
}

impl RopeParameters {
    fn kind(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.old_type.as_deref())
    }
}

/// The embedding of all blocks, and after it that of blocks with a window, if it is another.
pub(super) fn ropes(
    config: &HubConfig,
    family: &Family,
    head_dim: usize,
) -> Result<Vec<RopeConfig>, String> {
    let none = RopeParameters::default();
    let written = config.rope_parameters.as_ref();
    let main = match written {
        Some(parameters) => parameters.full_attention.as_deref().unwrap_or(parameters),
        None => config.rope_scaling.as_ref().unwrap_or(&none),
    };
    if written.is_some() && config.rope_scaling.is_some() {
        return Err("rope_parameters and rope_scaling; accepted: one of them".into());
    }
    // transformers ignores what is written in another way, without a message.
    let model_type = family.model_type;
    let has_local = family.local_rope_theta.is_some();
    let of_both = written
        .or(config.rope_scaling.as_ref())
        .map(|found| [&found.full_attention, &found.sliding_attention].map(Option::is_some));
    match of_both {
        Some([false, _] | [_, false]) if has_local && written.is_some() => {
            return Err(format!(
                "rope_parameters without full_attention or without sliding_attention; \
                 model_type '{model_type}' needs both"
            ));
        }
        Some([true, _] | [_, true]) if !has_local || written.is_none() => {
            return Err(format!(
                "rope parameters with full_attention or sliding_attention; not supported for \
                 model_type '{model_type}'{}",
                if has_local { " in rope_scaling" } else { "" }
            ));
        }
        _ => {}
    }
    if has_local && main.rope_type.is_none() && !matches!(main.kind(), None | Some("default")) {
        return Err(format!(
            "a rope scaling with type and without rope_type; model_type '{model_type}' needs \
             rope_type"
        ));
    }
    let theta = match family.layout {
        Layout::NeoX => config.rotary_emb_base,
        _ => config.rope_theta,
    };
    let theta = main.rope_theta.or(theta).unwrap_or(family.rope_theta);
    let mut ropes = vec![rope(config, family, main, theta, head_dim)?];
    if let Some(default) = family.local_rope_theta {
        let local = written.and_then(|parameters| parameters.sliding_attention.as_deref());
        let local = local.unwrap_or(&none);
        let theta = local.rope_theta.or(config.rope_local_base_freq);
        let theta = theta.unwrap_or(default);
        ropes.push(rope(config, family, local, theta, head_dim)?);
    }
    Ok(ropes)
}

fn rope(
    config: &HubConfig,
    family: &Family,
    parameters: &RopeParameters,
    theta: f64,
    head_dim: usize,
) -> Result<RopeConfig, String> {
    let theta = positive("rope_theta", theta)?;
    let rotated_by_default = match family.layout {
        Layout::NeoX => 0.25,
        _ => 1.0,
    };
    let of_config = match family.layout {
        Layout::NeoX => config.rotary_pct,
        _ => config.partial_rotary_factor,
    };
    let partial = parameters.partial_rotary_factor.or(of_config);
    let partial = partial.unwrap_or(rotated_by_default);
    if partial != 1.0 && !family.rotates_partly {
        return Err(format!(
            "partial_rotary_factor is {partial}; not supported for model_type '{}'",
            family.model_type
        ));
    }
    let dims = (head_dim as f64 * partial) as usize;
    if !(2..=head_dim).contains(&dims) || dims % 2 == 1 {
        return Err(format!(
            "partial_rotary_factor {partial} rotates {dims} of a head's {head_dim}; accepted: an \
             even number"
        ));
    }
    let mut rope = RopeConfig {
        theta: theta as f32,
        dims,
        factors: None,
        long: None,
        magnitude: 1.0,
    };
    let number = |name: &str, found: Option<f64>| match found {
        Some(found) => positive(&format!("rope scaling's {name}"), found),
        None => Err(format!("the rope scaling has no {name}")),
    };
    let original = || {
        let inside = parameters.original_max_position_embeddings;
        let of_config = config.original_max_position_embeddings;
        let found = match family.layout {
            // It has a field for it, whose default counts more than the one inside.
            Layout::Fused => of_config.or(Some(4096)),
            // With parameters for each kind of block only theirs counts.
            _ if family.local_rope_theta.is_some() => inside,
            _ => of_config.or(inside),
        };
        required("original_max_position_embeddings", found)
    };
    let is_fused = family.layout == Layout::Fused;
    match parameters.kind() {
        None | Some("default") => {}
        Some(kind @ ("linear" | "llama3")) if is_fused => {
            return Err(format!(
                "rope scaling '{kind}'; supported for model_type '{}': default, longrope",
                family.model_type
            ));
        }
        Some("linear") => {
            let factor = number("factor", parameters.factor)? as f32;
            rope.factors = Some(vec![factor; dims / 2]);
        }
        Some("llama3") => {
            let factor = number("factor", parameters.factor)?;
            let low = number("low_freq_factor", parameters.low_freq_factor)?;
            let high = number("high_freq_factor", parameters.high_freq_factor)?;
            if high <= low {
                return Err(format!(
                    "high_freq_factor {high} is not above low_freq_factor {low}"
                ));
            }
            let original = original()? as f64;
            rope.factors = Some(llama3_factors(theta, dims, factor, low, high, original));
        }
        Some(kind) if is_long(kind, is_fused) => {
            let factors = |name: &str, found: &Option<Vec<f32>>| match found {
                Some(factors) if factors.len() == dims / 2 => {
                    let each = factors.iter().map(|f| positive(name, f64::from(*f)));
                    each.collect::<Result<Vec<_>, _>>()?;
                    Ok(factors.clone())
                }
                Some(factors) => Err(format!(
                    "{name} has {} entries; accepted: {}",
                    factors.len(),
                    dims / 2
                )),
                None => Err(format!("the rope scaling has no {name}")),
            };
            let original = original()?;
            rope.factors = Some(factors("short_factor", &parameters.short_factor)?);
            rope.long = Some(LongRope {
                from: original,
                factors: factors("long_factor", &parameters.long_factor)?,
            });
            rope.magnitude = match parameters.attention_factor {
                Some(factor) => positive("attention_factor", factor)?,
                None => long_magnitude(config, parameters, original)?,
            } as f32;
        }
        Some(other) => {
            return Err(format!(
                "rope scaling '{other}'; supported: default, linear, llama3, longrope"
            ));
        }
    }
    Ok(rope)
}

/// Whether this is LongRoPE. Phi-3's first configurations, whose projections are fused, called it
/// otherwise.
fn is_long(kind: &str, is_fused: bool) -> bool {
    kind == "longrope" || (is_fused && matches!(kind, "su" | "yarn"))
}

/// What LongRoPE multiplies rotated queries and keys by, if the configuration does not say.
fn long_magnitude(
    config: &HubConfig,
    parameters: &RopeParameters,
    original: usize,
) -> Result<f64, String> {
    let longest = required("max_position_embeddings", config.max_position_embeddings)?;
    let ratio = longest as f64 / original as f64;
    let factor = positive("factor", parameters.factor.unwrap_or(ratio))?;
    if factor <= 1.0 {
        return Ok(1.0);
    }
    let magnitude = (1.0 + factor.ln() / (original as f64).ln()).sqrt();
    positive("the attention factor", magnitude)
}

/// What each frequency is divided by, as `_compute_llama3_parameters` has it.
fn llama3_factors(
    theta: f64,
    dims: usize,
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
) -> Vec<f32> {
    let of_pair = |pair: usize| {
        let frequency = theta.powf(-((2 * pair) as f64) / dims as f64);
        let wavelengths = original * frequency / (2.0 * std::f64::consts::PI);
        let divided = if wavelengths < low {
            factor
        } else if wavelengths > high {
            1.0
        } else {
            let smooth = (wavelengths - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        divided as f32
    };
    (0..dims / 2).map(of_pair).collect()
}
