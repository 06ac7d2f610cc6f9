//! `preference_tokens(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::calls::structs::preference_tokens::NAME;
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::TOKENS,
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What the model is shown of a preference pair, without running it: a struct of \
             prompt_text, chosen_text and rejected_text (the rendered prompt and what follows it), \
             prompt_ids (the prompt's own tokens), chosen_ids and rejected_ids (the tokens of the \
             prompt with each response, as they are scored), end_token_id (the token that ends a \
             response) and error.",
            "preference_tokens(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("preference_tokens(chosen, rejected)")
        .with_sql_example(
            "SELECT id, preference_tokens(prompt, chosen, rejected)['prompt_text'] FROM pairs",
        )
        .build(),
    }
}
