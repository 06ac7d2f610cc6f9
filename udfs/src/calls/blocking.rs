//! The public functions for a host that takes none but synchronous functions and no rules, such as
//! another DataFusion behind a foreign-function interface.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use super::facade::Facade;
use super::pick::field_of;
use crate::settings::ChesSettings;

/// A public function that answers at once. Each call is one of the scorer, whatever stands beside
/// it in a query.
#[derive(Debug)]
pub(crate) struct BlockingFunction {
    facade: Facade,
    /// Of the hidden function that the facade is rewritten to elsewhere.
    twin: Arc<ScalarUDF>,
    /// In effect where the session has none.
    settings: Arc<ChesSettings>,
}

impl BlockingFunction {
    pub(crate) fn new(facade: Facade, twin: Arc<ScalarUDF>, settings: Arc<ChesSettings>) -> Self {
        Self {
            facade,
            twin,
            settings,
        }
    }
}

impl PartialEq for BlockingFunction {
    fn eq(&self, other: &Self) -> bool {
        self.facade == other.facade
            && self.twin == other.twin
            && Arc::ptr_eq(&self.settings, &other.settings)
    }
}

impl Eq for BlockingFunction {}

impl Hash for BlockingFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.facade.hash(state);
        self.twin.hash(state);
        Arc::as_ptr(&self.settings).hash(state);
    }
}

impl ScalarUDFImpl for BlockingFunction {
    fn name(&self) -> &str {
        self.facade.name()
    }

    fn aliases(&self) -> &[String] {
        self.facade.aliases()
    }

    fn signature(&self) -> &Signature {
        self.facade.signature()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.facade.documentation()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.facade.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.facade.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.facade.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs {
            args: texts,
            arg_fields: text_fields,
            number_rows,
            mut config_options,
            ..
        } = args;
        if config_options.extensions.get::<ChesSettings>().is_none() {
            let options = Arc::make_mut(&mut config_options);
            options
                .extensions
                .insert(ChesSettings::clone(&self.settings));
        }
        let settings = ChesSettings::of(&config_options);
        if settings.tools_column.is_some() || settings.chat_template_kwargs_column.is_some() {
            return plan_err!(
                "ches.tools_column and ches.chat_template_kwargs_column need a session with the rules of this \
                 crate; here are its functions only"
            );
        }
        let needs = self.facade.needs().to_string();
        let guard = ScalarValue::Boolean(Some(true));
        let mut args = vec![
            ColumnarValue::Scalar(needs.into()),
            ColumnarValue::Scalar(guard),
        ];
        args.extend(texts);
        let literal = |name, data_type| Arc::new(Field::new(name, data_type, false));
        let mut arg_fields = vec![
            literal("needs", DataType::Utf8),
            literal("guard", DataType::Boolean),
        ];
        arg_fields.extend(text_fields);
        let return_type = self.facade.call_type();
        let scores = self.twin.invoke_with_args(ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows,
            return_field: Arc::new(Field::new(self.twin.name(), return_type, true)),
            config_options,
        })?;
        match self.facade.field() {
            None => Ok(scores),
            Some(name) => {
                let scores = scores.into_array(number_rows)?;
                Ok(ColumnarValue::Array(field_of(&scores, name)?))
            }
        }
    }
}
