//! Token sequences of prompts and responses, cut and shared as the contract says.

use std::ops::Range;

use ches_udfs::{TemplateVariables, Text};

use crate::texts::format::{Format, FormatError};
use crate::texts::tokenizer::TextTokenizer;

/// What turns texts into sequences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// How texts are rendered.
    pub format: &'a Format,
    /// Tokens of prompt + response that are kept.
    pub max_length: usize,
}

/// The tokens of a prompt followed by a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Prompt and response, tokenized as one text, cut to the longest length. Without the end
    /// token.
    pub ids: Vec<u32>,
    /// Length of the prompt's own tokens.
    pub prompt_tokens: usize,
    /// Whether `ids` was cut.
    pub truncated: bool,
}

impl Sequence {
    /// The response's tokens that are left: `n` of them.
    pub(crate) fn response(&self) -> &[u32] {
        self.ids.get(self.prompt_tokens..).unwrap_or(&[])
    }

    /// The positions whose hidden states belong to the response, from the last prompt token to
    /// the last response token: `n + 1` of them.
    pub(crate) fn contexts(&self) -> Range<usize> {
        self.prompt_tokens - 1..self.ids.len()
    }

    /// Whether its positions are embedded as those of sequences of more than `long_from` tokens.
    pub(crate) fn is_long(&self, long_from: Option<usize>) -> bool {
        long_from.is_some_and(|from| self.ids.len() > from)
    }

    /// The tokens that a full log-probability sums over: the response and, unless it was cut,
    /// the end token.
    pub(crate) fn targets(&self, end: u32) -> Vec<u32> {
        let end = (!self.truncated).then_some(end);
        self.response().iter().copied().chain(end).collect()
    }

    /// How many these are.
    pub(crate) fn target_count(&self) -> usize {
        self.response().len() + usize::from(!self.truncated)
    }

    /// Why this sequence has no score, if it has none by definition.
    pub(crate) fn no_score(&self, what: &str, max_length: usize) -> Option<String> {
        if self.prompt_tokens == 0 {
            Some("the prompt has no tokens, so nothing precedes the response".into())
        } else if self.prompt_tokens >= max_length {
            Some(format!(
                "the prompt has {} tokens and the longest length is {max_length}, so no token \
                 of a response is left",
                self.prompt_tokens
            ))
        } else if self.response().is_empty() {
            Some(format!("the {what} response has no tokens"))
        } else {
            None
        }
    }
}

/// A row that has no text or no tokens: which response is at fault, by its index, or none if it
/// is the prompt; and why.
pub(crate) type EncodingError = (Option<usize>, String);

/// The texts of a prompt and of several responses to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The prompt.
    pub prompt: String,
    /// What follows it, one for each response.
    pub responses: Vec<String>,
}

impl Encoder<'_> {
    /// The sequences of several responses to one prompt.
    pub(crate) fn encode(
        &self,
        prompt: &Text,
        variables: &TemplateVariables,
        responses: &[&Text],
    ) -> Result<Vec<Sequence>, EncodingError> {
        self.tokenize(&self.render(prompt, variables, responses)?)
    }

    /// Renders a prompt and several responses to it.
    pub(crate) fn render(
        &self,
        prompt: &Text,
        variables: &TemplateVariables,
        responses: &[&Text],
    ) -> Result<Rendered, EncodingError> {
        let error = |at| {
            move |error| match error {
                FormatError::Prompt(reason) => (None, reason),
                FormatError::Response(reason) => (at, reason),
            }
        };
        let prompt = self.format.prompt(prompt, variables);
        let prompt = prompt.map_err(error(None))?;
        let responses = responses
            .iter()
            .enumerate()
            .map(|(at, response)| prompt.response(response).map_err(error(Some(at))))
            .collect::<Result<_, _>>()?;
        Ok(Rendered {
            prompt: prompt.text,
            responses,
        })
    }

    /// The prompt's own tokens.
    pub(crate) fn prompt_ids(&self, rendered: &Rendered) -> Result<Vec<u32>, EncodingError> {
        let ids = self
            .tokenizer
            .encode(&rendered.prompt, !self.format.is_chat());
        ids.map_err(|reason| (None, reason))
    }

    /// Tokenizes the prompt with each response, each as one text.
    pub(crate) fn tokenize(&self, rendered: &Rendered) -> Result<Vec<Sequence>, EncodingError> {
        let begin = !self.format.is_chat();
        let ids = |text: &str, at| {
            let ids = self.tokenizer.encode(text, begin);
            ids.map_err(|reason| (Some(at), reason))
        };
        let prompt_tokens = self.prompt_ids(rendered)?.len();
        let sequence = |(at, response): (usize, &String)| {
            let text = format!("{}{response}", rendered.prompt);
            let mut ids = ids(&text, at)?;
            let truncated = ids.len() > self.max_length;
            ids.truncate(self.max_length);
            // Of a large text that is cut little is left.
            ids.shrink_to_fit();
            Ok(Sequence {
                ids,
                prompt_tokens,
                truncated,
            })
        };
        rendered
            .responses
            .iter()
            .enumerate()
            .map(sequence)
            .collect()
    }
}

/// How many first tokens may be computed once for all sequences: their longest common prefix,
/// at most to the last prompt position.
pub(crate) fn shared_prefix(sequences: &[Sequence]) -> usize {
    let Some((first, others)) = sequences.split_first() else {
        return 0;
    };
    if others.is_empty() {
        return 0;
    }
    others.iter().fold(first.prompt_tokens, |shared, other| {
        let most = shared.min(other.prompt_tokens);
        common_prefix(&first.ids, &other.ids).min(most)
    })
}

/// How many ids two lists begin with alike.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
