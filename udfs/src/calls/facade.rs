//! What the public functions have in common.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{exec_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

use super::call::Kind;
use super::pair_call::Pair;
use super::response_call::Response;
use crate::columns;
use crate::scorer::{Argument, Needs};

/// What is scored: decides the arguments and the hidden function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scored {
    /// `(prompt, chosen, rejected)` or `(chosen, rejected)`.
    Pair,
    /// `(prompt, response)`.
    Response,
}

impl Scored {
    /// The meaning of each argument, or `None` where no form takes so many.
    fn arguments(self, count: usize) -> Option<&'static [Argument]> {
        match self {
            Self::Pair => Pair::arguments(count),
            Self::Response => Response::arguments(count),
        }
    }

    fn forms(self) -> &'static str {
        match self {
            Self::Pair => "(prompt, chosen, rejected) or (chosen, rejected)",
            Self::Response => "(prompt, response)",
        }
    }

    /// The arguments of the longest form, for documentation.
    fn documented(self) -> Vec<(String, String)> {
        let described = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        match self {
            Self::Pair => [
                ("prompt", "What was asked: a string or a conversation."),
                (
                    "chosen",
                    "The preferred response: a string, a message or a conversation.",
                ),
                ("rejected", "The dispreferred response, likewise."),
            ]
            .map(described)
            .into(),
            Self::Response => [
                ("prompt", "What was asked: a string or a conversation."),
                (
                    "response",
                    "What was answered: a string, a message or a conversation.",
                ),
            ]
            .map(described)
            .into(),
        }
    }

    fn return_type(self) -> DataType {
        match self {
            Self::Pair => DataType::Struct(Pair::fields()),
            Self::Response => DataType::Struct(Response::fields()),
        }
    }
}

/// A public function, as its file describes it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Description {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub scored: Scored,
    pub needs: Needs,
    /// The field of the hidden function's struct that is returned; the whole struct if none.
    pub field: Option<&'static str>,
    pub documentation: Documentation,
}

/// The functions that facades are rewritten to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Calls {
    pub score_pair: Arc<ScalarUDF>,
    pub score_response: Arc<ScalarUDF>,
    pub pick: Arc<ScalarUDF>,
}

/// A public function: checks its arguments, then becomes a call of a hidden one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Facade {
    description: Description,
    aliases: Vec<String>,
    signature: Signature,
    call: Arc<ScalarUDF>,
    pick: Arc<ScalarUDF>,
}

impl Facade {
    pub(crate) fn new(mut description: Description, calls: &Calls) -> Self {
        let call = match description.scored {
            Scored::Pair => &calls.score_pair,
            Scored::Response => &calls.score_response,
        };
        let arguments = description.scored.documented();
        // What is accepted is checked with the types at hand; the other is what information_schema shows.
        let shown = TypeSignature::Exact(vec![DataType::Utf8; arguments.len()]);
        let signatures = vec![TypeSignature::UserDefined, shown];
        description.documentation.arguments = Some(arguments);
        Self {
            aliases: description.aliases.iter().map(|a| (*a).into()).collect(),
            signature: Signature::one_of(signatures, Volatility::Immutable),
            call: Arc::clone(call),
            pick: Arc::clone(&calls.pick),
            description,
        }
    }

    /// What is scored.
    pub(crate) fn scored(&self) -> Scored {
        self.description.scored
    }

    /// What the hidden function is asked for.
    pub(crate) fn needs(&self) -> Needs {
        self.description.needs
    }

    /// The field of the hidden function's struct that is returned; the whole struct if none.
    pub(crate) fn field(&self) -> Option<&'static str> {
        self.description.field
    }

    /// Checks the arguments' number and types.
    fn check_types(&self, types: &[DataType]) -> Result<()> {
        let Description { name, scored, .. } = self.description;
        let Some(arguments) = scored.arguments(types.len()) else {
            return plan_err!(
                "{name} takes {}, found {} arguments",
                scored.forms(),
                types.len()
            );
        };
        columns::check_types(name, arguments, types)
    }

    /// What the hidden function returns.
    pub(crate) fn call_type(&self) -> DataType {
        self.description.scored.return_type()
    }
}

impl ScalarUDFImpl for Facade {
    fn name(&self) -> &str {
        self.description.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.description.documentation)
    }

    /// Whatever is given: what is wrong with it is said by [`Facade::return_field_from_args`], whose words
    /// reach the user.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        let whole = self.description.scored.return_type();
        match (self.description.field, &whole) {
            (None, _) => Ok(whole),
            (Some(name), DataType::Struct(fields)) => match fields.find(name) {
                Some((_, field)) => Ok(field.data_type().clone()),
                None => internal_err!("{} has no field {name}", self.call.name()),
            },
            _ => internal_err!("{} does not return a struct", self.call.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<_> = args
            .arg_fields
            .iter()
            .map(|f| f.data_type().clone())
            .collect();
        self.check_types(&types)?;
        let return_type = self.return_type(&types)?;
        Ok(Arc::new(arrow::datatypes::Field::new(
            self.name(),
            return_type,
            true,
        )))
    }

    fn simplify(
        &self,
        mut args: Vec<Expr>,
        _context: &SimplifyContext,
    ) -> Result<ExprSimplifyResult> {
        let needs = lit(self.description.needs.to_string());
        args.splice(0..0, [needs, lit(true)]);
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.call), args));
        Ok(ExprSimplifyResult::Simplified(
            match self.description.field {
                None => call,
                Some(field) => Expr::ScalarFunction(ScalarFunction::new_udf(
                    Arc::clone(&self.pick),
                    vec![call, lit(field)],
                )),
            },
        ))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!(
            "{} was not rewritten; it needs DataFusion's optimizer rule simplify_expressions",
            self.name()
        )
    }
}
