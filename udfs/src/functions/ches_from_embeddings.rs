//! `ches_from_embeddings(chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use super::from_embeddings::FromEmbeddings;

pub(super) fn function() -> FromEmbeddings {
    let documentation = Documentation::builder(
        DOC_SECTION_OTHER,
        "The CHES score, <S+, S- - S+>, of two stored response_embedding values of one prompt and \
         model. Runs no model. Float64.",
        "ches_from_embeddings(chosen, rejected)",
    )
    .with_sql_example("SELECT id, ches_from_embeddings(chosen, rejected) FROM embedded")
    .build();
    FromEmbeddings::new("ches_from_embeddings", false, documentation)
}
