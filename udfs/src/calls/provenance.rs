//! `__ches_provenance(value, 'key', 'value', …)`: its first argument, as a column whose metadata
//! says where its numbers come from.
//!
//! A function's return field cannot follow a setting such as `ches.model`; its literal arguments
//! can, and [`HoistScores`](crate::optimizer::HoistScores) writes them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

pub(super) const NAME: &str = "__ches_provenance";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Provenance {
    signature: Signature,
}

impl Provenance {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Provenance {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The name that the value has without it.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args.first() {
            Some(value) => Ok(value.schema_name().to_string()),
            None => internal_err!("{NAME} takes a value"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("{NAME}'s field depends on its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let mut texts = Vec::new();
        for argument in args.scalar_arguments.iter().skip(1) {
            match argument.and_then(ScalarValue::try_as_str) {
                Some(Some(text)) => texts.push(text.to_owned()),
                _ => return plan_err!("{NAME} takes a value and keys and values"),
            }
        }
        let metadata: HashMap<_, _> = texts
            .chunks_exact(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        let data_type = args.arg_fields[0].data_type().clone();
        let field = Field::new(self.name(), data_type, true).with_metadata(metadata);
        Ok(Arc::new(field))
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        Ok(inputs[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => internal_err!("{NAME} takes a value"),
        }
    }
}
