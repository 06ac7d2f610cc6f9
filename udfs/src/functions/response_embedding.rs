//! `response_embedding(prompt, response)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::calls::response_call::EMBEDDING;
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "response_embedding",
        aliases: &[],
        scored: Scored::Response,
        needs: Needs::EMBEDDINGS,
        field: Some(EMBEDDING),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What a table may store of a response so that ches_from_embeddings needs no model: a \
             struct of sum (List<Float32>, the summed last-layer hidden embeddings), last \
             (List<Float32>, the last of them) and tokens (Int32, the response's length; the sum \
             is over tokens + 1 positions).",
            "response_embedding(prompt, response)",
        )
        .with_sql_example("SELECT id, response_embedding(prompt, chosen) FROM pairs")
        .build(),
    }
}
