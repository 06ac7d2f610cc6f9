//! `log_prob(prompt, response)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "log_prob",
        aliases: &[],
        scored: Scored::Response,
        needs: Needs::LOG_PROBS,
        field: Some("log_prob"),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "ln p(response | prompt) under the model, in nats, the end token included. Float64. \
             For the two responses of a pair, preference_scores gives both in one pass.",
            "log_prob(prompt, response)",
        )
        .with_sql_example("SELECT id, log_prob(prompt, chosen) FROM pairs")
        .build(),
    }
}
