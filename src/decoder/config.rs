//! What distinguishes one decoder from another.

use candle_nn::Activation;

/// The shape and switches of a decoder-only transformer. A model family is a way to fill this
/// in.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Width `d` of the hidden states.
    pub hidden_size: usize,
    /// Width of the MLP's inner layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of tokens of the vocabulary, `V`.
    pub vocab_size: usize,
    /// Most positions of a sequence.
    pub max_positions: usize,
    /// `ε` of the norms.
    pub norm_eps: f64,
    /// Activation of the MLP's gate.
    pub activation: Activation,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: Option<f64>,
    /// Queries, keys and values are cut to at most this in magnitude, before rotation.
    pub clip_qkv: Option<f64>,
    /// Each position attends to so many, itself included; to all before it if none.
    pub sliding_window: Option<usize>,
}

/// Rotary position embedding over whole heads, the two halves of a head paired (as Hugging Face
/// lays them out).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f32,
    /// Positions are divided by this (linear scaling).
    pub linear_scale: f32,
    /// Each frequency is divided by its factor (Llama 3.1's scaling); `head_dim / 2` of them.
    pub factors: Option<Vec<f32>>,
}
