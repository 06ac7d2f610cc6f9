//! `preference_scores(..)['field']`, read without a second pass of the model.
//!
//! DataFusion reads a struct's field by `get_field`, which asks to be moved towards the leaves
//! of a plan: it takes the model call that made the struct with it, once for each field and to
//! below the filters. Where the struct is one of ours, [`Pick`](super::pick) reads it instead
//! and stays in place.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF};

use super::pair_call::is_public_struct;

/// Rewrites accesses to fields of the structs that public functions of a pair return.
#[derive(Debug)]
pub(crate) struct FieldAccess {
    pub pick: Arc<ScalarUDF>,
}

impl FunctionRewrite for FieldAccess {
    fn name(&self) -> &str {
        "ches_field_access"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_ours = func.name() == "get_field"
            && args.len() == 2
            && matches!(
                args[0].get_type(schema),
                Ok(DataType::Struct(fields)) if is_public_struct(&fields)
            );
        let function = match is_ours {
            true => ScalarFunction::new_udf(Arc::clone(&self.pick), args),
            false => ScalarFunction::new_udf(func, args),
        };
        let function = Expr::ScalarFunction(function);
        Ok(match is_ours {
            true => Transformed::yes(function),
            false => Transformed::no(function),
        })
    }
}
