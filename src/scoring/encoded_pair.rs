//! What a model is shown of a pair.

/// A preference pair as the model is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPair {
    /// The prompt's text.
    pub prompt_text: String,
    /// The texts of the prompt with the chosen and with the rejected response.
    pub texts: [String; 2],
    /// Length of the prompt's own tokens.
    pub prompt_tokens: usize,
    /// The token ids of the two texts, cut to the longest length.
    pub ids: [Vec<u32>; 2],
    /// The token that ends a response, if it is known.
    pub end_token: Option<u32>,
}
