//! What distinguishes one decoder from another.

use candle_nn::Activation;

use super::Predicted;

/// So many values of the MLP's inner layer are held at once.
const INNER_VALUES: usize = 1 << 26;

/// The shape and switches of a decoder-only transformer. A model family is a way to fill this
/// in.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Width `d` of the hidden states.
    pub hidden_size: usize,
    /// Width of the MLP's inner layer.
    pub intermediate_size: usize,
    /// The blocks, first to last.
    pub layers: Vec<LayerConfig>,
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
    /// Activation of the MLP.
    pub activation: Activation,
    /// Whether the activation gates a second projection, or stands alone.
    pub gated_mlp: bool,
    /// Whether the MLP reads what attention reads, or what attention has added to.
    pub parallel_residual: bool,
    /// The rotary position embeddings that blocks choose from.
    pub ropes: Vec<RopeConfig>,
    /// Products of queries and keys are multiplied by this.
    pub attention_scale: f64,
    /// Then `x` becomes `cap · tanh(x / cap)`.
    pub attention_cap: Option<f64>,
    /// The same of logits.
    pub logit_cap: Option<f64>,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: Option<f64>,
    /// Queries, keys and values are cut to at most this in magnitude, before rotation.
    pub clip_qkv: Option<f64>,
}

impl DecoderConfig {
    /// Sequences of more tokens than this have another position embedding than shorter ones, if
    /// there is such a length.
    pub fn long_from(&self) -> Option<usize> {
        let long = self.ropes.iter().filter_map(|rope| rope.long.as_ref());
        long.map(|long| long.from).next()
    }

    /// Tokens of a batch whose activations take at most so many bytes, as f32, if this is predicted of
    /// all.
    pub fn tokens_within(&self, bytes: u64, predicted: Predicted) -> usize {
        let Activations { each, inner, fixed } = self.activations(predicted);
        let bytes = bytes.saturating_sub(fixed);
        let of_tile = (each + inner) * self.mlp_rows() as u64;
        let tokens = if bytes < of_tile {
            bytes / (each + inner)
        } else {
            self.mlp_rows() as u64 + (bytes - of_tile) / each
        };
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }

    /// Bytes that the activations of a batch take.
    pub fn activation_bytes(&self, tokens: usize, predicted: Predicted) -> u64 {
        let Activations { each, inner, fixed } = self.activations(predicted);
        let tile = tokens.min(self.mlp_rows()) as u64;
        let growing = each.saturating_mul(tokens as u64);
        growing.saturating_add(inner * tile + fixed)
    }

    fn activations(&self, predicted: Predicted) -> Activations {
        let heads = 2 * (self.heads + self.kv_heads) * self.head_dim;
        // The residual stream before and after attention, what is normed, what a branch adds; and
        // queries, keys, values and what they give.
        let forward = 4 * self.hidden_size + heads;
        // Of a block, the activations and gradients of the MLP, and what enters and leaves it.
        let of_block = 4 * self.inner_width() + 6 * self.hidden_size;
        let (more, fixed) = match predicted {
            Predicted::Nothing => (0, 0),
            Predicted::Displacement => (of_block, 0),
            Predicted::Step(_) => {
                let kept = 2 * self.hidden_size + heads;
                (of_block + self.layers.len() * kept, self.step_bytes())
            }
        };
        Activations {
            each: 4 * (forward + more) as u64,
            inner: 4 * (self.inner_width() + self.intermediate_size) as u64,
            fixed,
        }
    }

    /// Numbers of all matrices, which nearly all weights are: the embedding, the unembedding as if it had its own,
    /// and those of the blocks.
    pub fn parameters(&self) -> u64 {
        let of_heads = 2 * (self.heads + self.kv_heads) * self.head_dim;
        let of_mlp = self.inner_width() + self.intermediate_size;
        let of_blocks = self.layers.len() * (of_heads + of_mlp);
        (self.hidden_size * (2 * self.vocab_size + of_blocks)) as u64
    }

    /// Rows that go through the MLP at once.
    pub(super) fn mlp_rows(&self) -> usize {
        (INNER_VALUES / self.inner_width()).max(1)
    }

    /// Bytes that a simulated step takes whatever its tokens: a sign of every entry of the matrices that
    /// it moves, of every block the output projection of attention and those of the MLP.
    pub fn step_bytes(&self) -> u64 {
        let of_attention = self.heads * self.head_dim;
        let of_block = of_attention + self.inner_width() + self.intermediate_size;
        (self.layers.len() * of_block * self.hidden_size) as u64
    }

    /// Width of the projection into the MLP.
    fn inner_width(&self) -> usize {
        self.intermediate_size * if self.gated_mlp { 2 } else { 1 }
    }
}

/// Bytes that activations take.
struct Activations {
    /// For each token.
    each: u64,
    /// For each token that is in the MLP.
    inner: u64,
    /// Whatever the tokens.
    fixed: u64,
}

/// What distinguishes one block from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Each position attends to so many, itself included; to all before it if none.
    pub sliding_window: Option<usize>,
    /// Which of the rotary embeddings; none leaves positions out.
    pub rope: Option<usize>,
}

/// Rotary position embedding, the two halves of what is rotated paired (as Hugging Face lays
/// heads out).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f32,
    /// How much of each head is rotated, its first `dims`; even.
    pub dims: usize,
    /// Each frequency is divided by its factor; `dims / 2` of them.
    pub factors: Option<Vec<f32>>,
    /// Other factors for long sequences (LongRoPE).
    pub long: Option<LongRope>,
    /// Rotated queries and keys are multiplied by this.
    pub magnitude: f32,
}

/// The factors of sequences of more than `from` tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// The longest sequence that is not long.
    pub from: usize,
    /// As [`RopeConfig::factors`].
    pub factors: Vec<f32>,
}
