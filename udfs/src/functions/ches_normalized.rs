//! `ches_normalized(prompt, chosen, rejected)`, alias `ln_ches`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: "ches_normalized",
        aliases: &["ln_ches"],
        scored: Scored::Pair,
        needs: Needs::EMBEDDINGS,
        field: Some("ches_normalized"),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "The length-normalised CHES score: as ches, with each summed embedding divided by \
             the number of positions it sums over. The score to filter a data set by (Razin et \
             al. 2024, section 6). Float64.",
            "ches_normalized(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("ches_normalized(chosen, rejected)")
        .with_sql_example("SELECT id, ches_normalized(prompt, chosen, rejected) FROM pairs")
        .build(),
    }
}
