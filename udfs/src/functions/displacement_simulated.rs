//! `displacement_simulated(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::calls::structs::displacement_simulated::NAME;
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::SIMULATION,
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What one step of training on a preference pair does to its responses, simulated: the \
             MLPs and attention's output projections of all blocks move by ches.learning_rate \
             along the signs of the gradient of ln p(chosen) - ln p(rejected), attention held \
             constant, for this pair only, and the responses go through the model once more. A \
             struct of chosen_change, rejected_change (of the log-probabilities, nats), both \
             _per_token, gaining and losing (the tokens whose log-probability at the last prompt \
             position changes most), and error. Takes several times as long as displacement.",
            "displacement_simulated(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("displacement_simulated(chosen, rejected)")
        .with_sql_example(
            "SELECT id, displacement_simulated(prompt, chosen, rejected)['chosen_change_per_token'] \
             FROM pairs",
        )
        .build(),
    }
}
