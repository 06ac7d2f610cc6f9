//! The SQL functions, one file each.
//!
//! Every public function that needs a model is a facade ([`facade`]): it checks its arguments
//! when the query is planned and rewrites itself to a field of one of two hidden asynchronous
//! functions ([`pair_call`], [`response_call`]), so that calls of the same texts behind different
//! functions become one call ([`HoistScores`]).

mod blocking;
mod call;
mod ches;
mod ches_from_embeddings;
mod ches_normalized;
mod ches_normalized_from_embeddings;
mod displacement;
mod displacement_simulated;
mod facade;
mod field_access;
mod from_embeddings;
mod last_hidden_similarity;
mod log_prob;
mod normalized_edit_distance;
mod pair_call;
mod pair_columns;
mod pick;
mod preference_scores;
mod preference_tokens;
mod provenance;
mod request;
mod response_call;
mod response_embedding;
mod template_columns;
mod token_changes;

use std::sync::Arc;

use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ScalarUDF};

use crate::optimizer::HoistScores;
use crate::pieces::Pieces;
use crate::score_exec::UseScoreExec;
use crate::scorer::{Needs, PreferencePair, RowError, Scorer};
use crate::settings::ChesSettings;
use crate::text::Text;
use blocking::Blocking;
use call::Kind;
use facade::{Calls, Description, Facade, Scored};
use field_access::FieldAccess;
use pair_call::Pair;
use response_call::Response;
use template_columns::TemplateColumns;

pub(crate) use call::BLOCKING_SUFFIX;
pub use call::Interruption;
pub(crate) use pick::field_name;
pub(crate) use request::{CARRIED_PREFIX, shown_name};

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

/// The public functions for a host that takes nothing else of this crate: no rules, no settings, no
/// asynchronous functions. Computed by `scorer`, under the session's settings where it has any and
/// otherwise under `settings`.
///
/// They may stand wherever an expression may. Each call computes every row that it is shown, waits for
/// it, and knows of no other call: what keeps a query from computing a pair twice is what the scorer
/// remembers. Where rules can be added, [`Pieces`] is the better way. A call that waits
/// is ended by `interruption`.
pub fn blocking_functions(
    scorer: Arc<dyn Scorer>,
    settings: ChesSettings,
    interruption: Interruption,
) -> Vec<Arc<ScalarUDF>> {
    let settings = Arc::new(settings);
    let (calls, twins) = calls(&scorer, &interruption);
    let [pair_twin, response_twin] = twins;
    let function = |description| {
        let facade = Facade::new(description, &calls);
        let twin = match facade.scored() {
            Scored::Pair => &pair_twin,
            Scored::Response => &response_twin,
        };
        let function = Blocking::new(facade, Arc::clone(twin), Arc::clone(&settings));
        Arc::new(ScalarUDF::new_from_impl(function))
    };
    let mut functions: Vec<_> = descriptions().into_iter().map(function).collect();
    functions.extend(of_embeddings());
    functions
}

/// The hidden functions, and their synchronous twins: of pairs, of responses.
fn calls(scorer: &Arc<dyn Scorer>, interruption: &Interruption) -> (Calls, [Arc<ScalarUDF>; 2]) {
    let (score_pair, pair_twin) = call::functions::<Pair>(scorer, interruption);
    let (score_response, response_twin) = call::functions::<Response>(scorer, interruption);
    let calls = Calls {
        score_pair,
        score_response,
        pick: Arc::new(ScalarUDF::new_from_impl(pick::Pick::new())),
    };
    (calls, [pair_twin, response_twin])
}

/// Every function of this crate, computed by `scorer`, and the rules that they need.
pub(crate) fn all(scorer: Arc<dyn Scorer>) -> Pieces {
    let never: Interruption = Arc::new(|| Box::new(|| Ok(())));
    let (calls, twins) = calls(&scorer, &never);
    let twins = twins.to_vec();
    let mut functions: Vec<_> = descriptions()
        .into_iter()
        .map(|function| Arc::new(ScalarUDF::new_from_impl(Facade::new(function, &calls))))
        .collect();
    functions.extend(of_embeddings());
    let pick = Arc::clone(&calls.pick);
    let field_access = Arc::new(FieldAccess {
        pick: Arc::clone(&pick),
    });
    let beside = Arc::new(ScalarUDF::new_from_impl(template_columns::Beside::new()));
    let template_columns = Arc::new(TemplateColumns {
        beside: Arc::clone(&beside),
    });
    let provenance = Arc::new(ScalarUDF::new_from_impl(provenance::Provenance::new()));
    let mut hidden_functions = vec![calls.score_pair, calls.score_response, calls.pick];
    hidden_functions.extend([Arc::clone(&provenance), beside]);
    hidden_functions.extend(twins.iter().cloned());
    let hoist_scores = HoistScores {
        scorer,
        pick,
        provenance,
        blocking: twins,
    };
    Pieces {
        functions,
        hidden_functions,
        field_access,
        template_columns,
        hoist_scores: Arc::new(hoist_scores),
        use_score_exec: Arc::new(UseScoreExec),
    }
}

/// The pair that a row's texts are: prompt, chosen and rejected, or the two without a prompt.
pub(crate) fn read_pair(texts: Vec<Text>) -> Result<PreferencePair, RowError> {
    Pair::item(texts, Vec::new())
}

/// Whether this is a hidden asynchronous function.
pub(crate) fn is_scoring_function(function: &ScalarUDF) -> bool {
    [Pair::NAME, Response::NAME].contains(&function.name())
}

/// Whether this is the hidden asynchronous function of pairs.
pub(crate) fn is_pair_function(function: &ScalarUDF) -> bool {
    function.name() == Pair::NAME
}

/// Whether this reads a field of its first argument: our own pick, or `s['field']` in SQL.
pub(crate) fn reads_field(function: &ScalarFunction) -> bool {
    [pick::NAME, "get_field"].contains(&function.func.name()) && function.args.len() == 2
}

/// Whether a field of a struct that a hidden function returns as its field `whole` is also one of the
/// function's own.
pub(crate) fn is_own_field(function: &str, whole: &str, field: &str) -> bool {
    match function {
        Pair::NAME => pair_call::is_own_field(whole, field),
        Response::NAME => response_call::is_own_field(whole, field),
        _ => false,
    }
}

/// Whether a field of a hidden function's struct is NULL where an argument is: neither a reason, nor a
/// struct that holds one.
pub(crate) fn is_null_of_nulls(field: &Expr) -> bool {
    let name = field_name(field);
    name != "error" && !pair_call::is_struct(&name)
}

/// What a value is that was only given a provenance.
pub(crate) fn without_provenance(function: &ScalarFunction) -> Option<&Expr> {
    let is_provenance = function.func.name() == provenance::NAME;
    is_provenance.then(|| function.args.first()).flatten()
}

/// What a call of a hidden function, with these arguments, is said to need.
pub(crate) fn call_needs(args: &[Expr]) -> Option<Needs> {
    match args.first() {
        Some(Expr::Literal(needs, _)) => call::stated_needs(needs),
        _ => None,
    }
}

/// What a hidden function computes for a field; `None` where that follows from the call.
pub(crate) fn field_needs(function: &str, field: &Expr) -> Option<Needs> {
    let Expr::Literal(field, _) = field else {
        return None;
    };
    let field = field.try_as_str()??;
    match function {
        Pair::NAME => Pair::field_needs(field),
        Response::NAME => Response::field_needs(field),
        _ => None,
    }
}
