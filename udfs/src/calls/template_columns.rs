//! Columns beside the texts that the chat template finds: `ches.tools_column` and
//! `ches.chat_template_kwargs_column`.
//!
//! A call reads them with its first text, in the place of which the rewrite puts a struct of all.

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};

use super::facade::Facade;
use crate::settings::ChesSettings;
use crate::template_variables::{KWARGS, TOOLS, accepted, fields, is_accepted};

const NAME: &str = "__ches_beside";

/// Puts the columns that settings name beside the first text of every call.
#[derive(Debug)]
pub(crate) struct TemplateColumns {
    pub beside: Arc<ScalarUDF>,
}

impl FunctionRewrite for TemplateColumns {
    fn name(&self) -> &str {
        "ches_template_columns"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Some(settings) = config.extensions.get::<ChesSettings>() else {
            return Ok(Transformed::no(expr));
        };
        let named = [
            ("tools_column", TOOLS, &settings.tools_column),
            (
                "chat_template_kwargs_column",
                KWARGS,
                &settings.chat_template_kwargs_column,
            ),
        ];
        if named.iter().all(|(_, _, column)| column.is_none()) {
            return Ok(Transformed::no(expr));
        }
        let Expr::ScalarFunction(ScalarFunction { func, mut args }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_ours = func.inner().downcast_ref::<Facade>().is_some();
        let is_done =
            |text: &Expr| matches!(text, Expr::ScalarFunction(of) if of.func.name() == NAME);
        if !is_ours || args.first().is_none_or(is_done) {
            let function = ScalarFunction::new_udf(func, args);
            return Ok(Transformed::no(Expr::ScalarFunction(function)));
        }
        let beside = named.map(|(key, kind, column)| match column {
            None => Ok(lit(ScalarValue::Null)),
            Some(column) => found(key, kind, column, schema, &args),
        });
        let [tools, kwargs] = beside;
        let text = args[0].clone();
        args[0] = Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::clone(&self.beside),
            vec![text, tools?, kwargs?],
        ));
        let function = ScalarFunction::new_udf(func, args);
        Ok(Transformed::yes(Expr::ScalarFunction(function)))
    }
}

/// The column of that name that stands beside texts.
fn found(key: &str, kind: &str, column: &str, schema: &DFSchema, texts: &[Expr]) -> Result<Expr> {
    let fields = schema.qualified_fields_with_unqualified_name(column);
    let of_texts = || {
        let mut table = None;
        for text in texts {
            let _ = text.apply(|expr| {
                if let Expr::Column(Column {
                    relation: Some(relation),
                    ..
                }) = expr
                {
                    table.get_or_insert_with(|| relation.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        table
    };
    let field = match fields.as_slice() {
        [] => {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            return plan_err!(
                "ches.{key} is '{column}', and beside the texts there is no such column; there are {names}"
            );
        }
        [one] => *one,
        several => {
            let table = of_texts();
            let same = several.iter().find(|(of, _)| *of == table.as_ref());
            match same {
                Some(same) => *same,
                None => return plan_err!("ches.{key} is '{column}', which several tables have"),
            }
        }
    };
    let column = Expr::Column(Column::from(field));
    let data_type = column.get_type(schema)?;
    if !is_accepted(kind, &data_type) {
        return plan_err!(
            "ches.{key}: the column '{}' has type {data_type}; accepted: {}",
            field.1.name(),
            accepted(kind)
        );
    }
    Ok(column)
}

/// A text with its variables, as a struct.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WithTemplateVariables {
    signature: Signature,
}

impl WithTemplateVariables {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(3, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WithTemplateVariables {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [text, tools, kwargs] => Ok(DataType::Struct(fields(text, tools, kwargs))),
            _ => internal_err!("{NAME} of {} arguments", types.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone());
        let data_type = self.return_type(&types.collect::<Vec<_>>())?;
        // Messages call the text by its column.
        let name = args.arg_fields.first().map_or(NAME, |text| text.name());
        Ok(Arc::new(Field::new(name, data_type, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
        let is_one = args.args.iter().all(is_constant);
        let rows = if is_one { 1 } else { args.number_rows };
        let columns = args.args.iter().map(|value| value.to_array(rows));
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let types: Vec<_> = columns
            .iter()
            .map(|column| column.data_type().clone())
            .collect();
        let DataType::Struct(fields) = self.return_type(&types)? else {
            return internal_err!("{NAME} returns a struct");
        };
        let structs = Arc::new(StructArray::try_new(fields, columns, None)?);
        Ok(match is_one {
            true => ColumnarValue::Scalar(ScalarValue::Struct(structs)),
            false => ColumnarValue::Array(structs),
        })
    }
}
