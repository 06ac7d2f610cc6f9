//! `__ches_pick(struct, 'field')`: one field of what a hidden function returned.
//!
//! DataFusion's own `get_field` would not do: it asks to be moved towards the leaves of a plan,
//! and takes the model call with it below the filters.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, exec_datafusion_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
    lit,
};

use super::call::Kind;
use super::pair_call::{Pair, is_own_field};
use crate::scorer::Needs;

pub(super) const NAME: &str = "__ches_pick";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Pick {
    signature: Signature,
}

impl Pick {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

/// A field's name, from the argument that names it.
pub(crate) fn field_name(field: &Expr) -> String {
    match field {
        Expr::Literal(name, _) => name.to_string(),
        other => other.schema_name().to_string(),
    }
}

/// A literal's text; none is empty.
fn text(literal: &Expr) -> &str {
    let text = match literal {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    };
    text.unwrap_or_default()
}

impl ScalarUDFImpl for Pick {
    fn name(&self) -> &str {
        NAME
    }

    /// The name that `get_field` would have, so that what is rewritten keeps its name.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [whole, field] => Ok(format!("{}[{}]", whole.schema_name(), field_name(field))),
            _ => internal_err!("{NAME} takes two arguments"),
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [whole, field] => Ok(format!("{whole}[{}]", field_name(field))),
            _ => internal_err!("{NAME} takes two arguments"),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("__ches_pick's type depends on its second argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let name = args.scalar_arguments.get(1).copied().flatten();
        let (DataType::Struct(fields), Some(Some(name))) = (
            args.arg_fields[0].data_type(),
            name.map(ScalarValue::try_as_str),
        ) else {
            return plan_err!("__ches_pick takes a struct and the name of one of its fields");
        };
        match fields.find(name.unwrap_or_default()) {
            Some((_, field)) => {
                let whole = args.arg_fields[0].metadata().clone();
                let field = Field::new(self.name(), field.data_type().clone(), true);
                Ok(Arc::new(field.with_metadata(whole)))
            }
            None => plan_err!("__ches_pick: no field {name:?} in {fields:?}"),
        }
    }

    /// A field of a struct that the call has itself is read from the call. One that takes no forward
    /// pass asks for none, also in a host without [`HoistScores`](crate::optimizer::HoistScores),
    /// which narrows any other.
    fn simplify(
        &self,
        mut args: Vec<Expr>,
        _context: &SimplifyContext,
    ) -> Result<ExprSimplifyResult> {
        if let [Expr::ScalarFunction(whole), field] = &args[..]
            && whole.func.name() == NAME
            && let [Expr::ScalarFunction(call), function] = &whole.args[..]
            && call.func.name() == Pair::NAME
            && is_own_field(text(function), text(field))
        {
            let args = vec![whole.args[0].clone(), field.clone()];
            let pick = ScalarFunction::new_udf(Arc::new(Self::new().into()), args);
            return Ok(ExprSimplifyResult::Simplified(Expr::ScalarFunction(pick)));
        }
        if let [Expr::ScalarFunction(call), Expr::Literal(field, _)] = &mut args[..]
            && call.func.name() == Pair::NAME
            && let Some(Some(field)) = field.try_as_str()
            && let Some(needs) = Pair::field_needs(field)
            && !needs.intersects(Needs::MODEL)
        {
            let needs = lit(needs.to_string());
            if call.args[0] != needs {
                call.args[0] = needs;
                let pick = ScalarFunction::new_udf(Arc::new(Self::new().into()), args);
                return Ok(ExprSimplifyResult::Simplified(Expr::ScalarFunction(pick)));
            }
        }
        Ok(ExprSimplifyResult::Original(args))
    }

    // With the default, which has no type, DataFusion loses the order of a comparison of the field.
    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        let field = match (inputs[0].data_type(), inputs[1].lower().try_as_str()) {
            (DataType::Struct(fields), Some(Some(name))) => fields
                .find(name)
                .map(|(_, field)| field.data_type().clone()),
            _ => None,
        };
        Interval::make_unbounded(&field.unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [structs, ColumnarValue::Scalar(name)] = &args.args[..] else {
            return internal_err!("__ches_pick takes a struct and the name of one of its fields");
        };
        let name = name.try_as_str().flatten().unwrap_or_default();
        let structs = structs.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(field_of(&structs, name)?))
    }
}

/// A field of structs; NULL where they are.
pub(super) fn field_of(structs: &ArrayRef, name: &str) -> Result<ArrayRef> {
    let structs = structs.as_struct();
    let column = structs
        .column_by_name(name)
        .ok_or_else(|| exec_datafusion_err!("__ches_pick: no field {name:?}"))?;
    let nulls = NullBuffer::union(structs.nulls(), column.nulls());
    let picked = column.to_data().into_builder().nulls(nulls).build()?;
    Ok(make_array(picked))
}
