//! `last_hidden_similarity(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "last_hidden_similarity",
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::EMBEDDINGS,
        field: Some("last_hidden_similarity"),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "The inner product of the last hidden embeddings of the two responses, a baseline \
             of Razin et al. 2024. Float64.",
            "last_hidden_similarity(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("last_hidden_similarity(chosen, rejected)")
        .with_sql_example("SELECT id, last_hidden_similarity(prompt, chosen, rejected) FROM pairs")
        .build(),
    }
}
