//! `displacement(prompt, chosen, rejected)`.

use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use crate::calls::facade::{Description, Scored};
use crate::calls::structs::displacement::NAME;
use crate::scorer::Needs;

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::DISPLACEMENT.union(Needs::LOG_PROBS),
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What training on a preference pair does to its responses, to first order: how fast \
             their log-probabilities change along a step of Adam on the DPO loss, restricted to \
             the last block. A struct of chosen_rate, rejected_rate (nats for each unit that \
             every weight moves by), both _per_token (to rank pairs by) and _sgd (along the \
             gradient instead, without beta/2), overlap (above 1: a step of SGD lowers the \
             chosen response), chosen_logprob, rejected_logprob, gaining and losing (the tokens \
             whose probability at the last prompt position changes most, with the rate of their \
             log-probability), and error. Rates rank pairs of one data set under one model.",
            "displacement(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("displacement(chosen, rejected)")
        .with_sql_example(
            "SELECT id, displacement(prompt, chosen, rejected)['chosen_rate_per_token'] FROM pairs",
        )
        .build(),
    }
}
