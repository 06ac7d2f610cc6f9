//! The rows that are scored, as values: a pair of responses, or one.

use crate::template_variables::TemplateVariables;
use crate::text::Text;

/// A prompt with the two responses that a preference was given on.
///
/// Responses hold only what follows the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PreferencePair {
    /// What was asked.
    pub prompt: Text,
    /// The preferred response.
    pub chosen: Text,
    /// The dispreferred response.
    pub rejected: Text,
    /// What the chat template finds besides in this row.
    pub variables: TemplateVariables,
}

/// A prompt with one response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PromptedResponse {
    /// What was asked.
    pub prompt: Text,
    /// What was answered; holds only what follows the prompt.
    pub response: Text,
    /// What the chat template finds besides in this row.
    pub variables: TemplateVariables,
}
