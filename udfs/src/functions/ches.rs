//! `ches(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "ches",
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::EMBEDDINGS,
        field: Some("ches"),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "The CHES score of a preference pair, <S+, S-> - |S+|^2 with S the summed last-layer \
             hidden embeddings of a response (Razin et al. 2024, Definition 2). The higher it \
             is within a data set, the more training on the pair is expected to displace the \
             likelihood of the chosen response. Float64.",
            "ches(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("ches(chosen, rejected)")
        .with_sql_example("SELECT id, ches(prompt, chosen, rejected) FROM pairs")
        .build(),
    }
}
