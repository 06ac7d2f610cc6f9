//! `normalized_edit_distance(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "normalized_edit_distance",
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::EDIT_DISTANCE,
        field: Some("normalized_edit_distance"),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "The Levenshtein distance of the token ids of the two responses over the length of \
             the longer one, in [0, 1]; uses the model's tokenizer and runs no model. Float64.",
            "normalized_edit_distance(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("normalized_edit_distance(chosen, rejected)")
        .with_sql_example(
            "SELECT id, normalized_edit_distance(prompt, chosen, rejected) FROM pairs",
        )
        .build(),
    }
}
