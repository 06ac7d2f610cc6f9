//! What stands behind the public functions: texts of a batch come in, scores as Arrow arrays go out.
//!
//! A public function is a facade ([`facade`]): it checks its arguments when the query is planned and
//! rewrites itself to a field of one of two hidden asynchronous functions ([`pair_call`],
//! [`response_call`]), so that calls of the same texts behind different functions become one call.

mod blocking;
mod call;
pub(crate) mod facade;
mod field_access;
mod needs;
mod pair_call;
mod pair_columns;
mod pick;
mod provenance;
mod request;
pub(crate) mod response_call;
pub(crate) mod structs;
mod template_columns;

use std::sync::Arc;

use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ScalarUDF};

use crate::preference_pair::PreferencePair;
use crate::scorer::{Needs, RowError, Scorer};
use crate::text::Text;
use call::Kind;
use facade::Calls;
use pair_call::Pair;
use response_call::Response;

pub(crate) use blocking::BlockingFunction;
pub(crate) use call::BLOCKING_SUFFIX;
pub use call::Interruption;
pub(crate) use field_access::FieldAccess;
pub(crate) use pick::field_name;
pub(crate) use request::{CARRIED_PREFIX, shown_name};
pub(crate) use template_columns::TemplateColumns;

/// The hidden functions, and their synchronous twins: of pairs, of responses.
pub(crate) fn calls(
    scorer: &Arc<dyn Scorer>,
    interruption: &Interruption,
) -> (Calls, [Arc<ScalarUDF>; 2]) {
    let (score_pair, pair_twin) = call::functions::<Pair>(scorer, interruption);
    let (score_response, response_twin) = call::functions::<Response>(scorer, interruption);
    let calls = Calls {
        score_pair,
        score_response,
        pick: Arc::new(ScalarUDF::new_from_impl(pick::Pick::new())),
    };
    (calls, [pair_twin, response_twin])
}

/// The function that gives a column its provenance.
pub(crate) fn provenance() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(provenance::Provenance::new()))
}

/// The function that joins a text with what stands beside it for the chat template.
pub(crate) fn beside() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(
        template_columns::WithTemplateVariables::new(),
    ))
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
        Some(Expr::Literal(needs, _)) => needs::stated_needs(needs),
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
