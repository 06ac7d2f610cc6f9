//! The structs that public functions of a pair return: rows of scores come in, Arrow arrays go out.

use arrow::datatypes::Fields;

pub(crate) mod displacement;
pub(crate) mod displacement_simulated;
pub(crate) mod preference_scores;
pub(crate) mod preference_tokens;
mod token_changes;

/// The structs, by the names of the functions.
pub(super) fn all() -> [(&'static str, Fields); 4] {
    [
        (preference_scores::NAME, preference_scores::fields()),
        (displacement::NAME, displacement::fields()),
        (
            displacement_simulated::NAME,
            displacement_simulated::fields(),
        ),
        (preference_tokens::NAME, preference_tokens::fields()),
    ]
}
