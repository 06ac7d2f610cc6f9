//! The SQL functions, one file each.
//!
//! What they stand on is in [`calls`]; what a session needs besides is a
//! [`SessionExtension`](crate::SessionExtension).

mod ches;
mod ches_from_embeddings;
mod ches_normalized;
mod ches_normalized_from_embeddings;
mod displacement;
mod displacement_simulated;
mod from_embeddings;
mod last_hidden_similarity;
mod log_prob;
mod normalized_edit_distance;
mod preference_scores;
mod preference_tokens;
mod response_embedding;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use crate::calls::facade::{Calls, Description, Facade, Scored};
use crate::calls::{self, BlockingFunction, Interruption};
use crate::scorer::Scorer;
use crate::settings::ChesSettings;

/// The public functions that need a model.
fn descriptions() -> [Description; 10] {
    [
        ches::describe(),
        ches_normalized::describe(),
        displacement::describe(),
        displacement_simulated::describe(),
        last_hidden_similarity::describe(),
        log_prob::describe(),
        normalized_edit_distance::describe(),
        preference_scores::describe(),
        preference_tokens::describe(),
        response_embedding::describe(),
    ]
}

/// The public functions that need none.
fn of_embeddings() -> [Arc<ScalarUDF>; 2] {
    [
        ches_from_embeddings::function(),
        ches_normalized_from_embeddings::function(),
    ]
    .map(|function| Arc::new(ScalarUDF::new_from_impl(function)))
}

/// All public functions, each of which becomes one of `calls`.
pub(crate) fn public(calls: &Calls) -> Vec<Arc<ScalarUDF>> {
    let facade = |function| Arc::new(ScalarUDF::new_from_impl(Facade::new(function, calls)));
    let mut functions: Vec<_> = descriptions().into_iter().map(facade).collect();
    functions.extend(of_embeddings());
    functions
}

/// The public functions for a host that takes nothing else of this crate: no rules, no settings, no
/// asynchronous functions. Computed by `scorer`, under the session's settings where it has any and
/// otherwise under `settings`.
///
/// They may stand wherever an expression may. Each call computes every row that it is shown, waits for
/// it, and knows of no other call: what keeps a query from computing a pair twice is what the scorer
/// remembers. Where rules can be added, a [`SessionExtension`](crate::SessionExtension) is the better way. A call that waits
/// is ended by `interruption`.
pub fn blocking_functions(
    scorer: Arc<dyn Scorer>,
    settings: ChesSettings,
    interruption: Interruption,
) -> Vec<Arc<ScalarUDF>> {
    let settings = Arc::new(settings);
    let (calls, twins) = calls::calls(&scorer, &interruption);
    let [pair_twin, response_twin] = twins;
    let function = |description| {
        let facade = Facade::new(description, &calls);
        let twin = match facade.scored() {
            Scored::Pair => &pair_twin,
            Scored::Response => &response_twin,
        };
        let function = BlockingFunction::new(facade, Arc::clone(twin), Arc::clone(&settings));
        Arc::new(ScalarUDF::new_from_impl(function))
    };
    let mut functions: Vec<_> = descriptions().into_iter().map(function).collect();
    functions.extend(of_embeddings());
    functions
}
