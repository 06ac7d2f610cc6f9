//! `preference_scores(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::calls::structs::preference_scores::NAME;
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::EDIT_DISTANCE
            .union(Needs::EMBEDDINGS)
            .union(Needs::LOG_PROBS),
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "Everything that one pass of the model over a preference pair gives, as a struct of \
             ches, ches_normalized, last_hidden_similarity, normalized_edit_distance, \
             chosen_logprob, rejected_logprob, prompt_tokens, chosen_tokens, rejected_tokens, \
             truncated and error.",
            "preference_scores(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("preference_scores(chosen, rejected)")
        .with_sql_example(
            "SELECT id, preference_scores(prompt, chosen, rejected)['chosen_logprob'] FROM pairs",
        )
        .build(),
    }
}
