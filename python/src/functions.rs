//! The SQL functions, for the DataFusion of the Python package `datafusion`.

use std::ffi::CStr;
use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use datafusion_ches::Ches;
use datafusion_ches::ches_udfs::blocking_functions;
use datafusion_ffi::udf::FFI_ScalarUDF;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::interrupt::ctrl_c;
use crate::settings::{Settings, with_settings};

/// What `datafusion.udf` takes.
#[pyclass(frozen, module = "datafusion_ches._native")]
#[derive(Debug)]
pub struct Function {
    function: Arc<ScalarUDF>,
}

#[pymethods]
impl Function {
    /// The name in SQL.
    #[getter]
    fn name(&self) -> &str {
        self.function.name()
    }

    fn __datafusion_scalar_udf__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        const NAME: &CStr = c"datafusion_scalar_udf";
        let function = FFI_ScalarUDF::from(Arc::clone(&self.function));
        PyCapsule::new_with_value(py, function, NAME)
    }
}

/// Every public function, under these settings, by one scorer.
///
/// # Errors
/// `ValueError`: a setting does not accept its value.
#[pyfunction]
pub(crate) fn functions(py: Python<'_>, settings: Settings) -> PyResult<Vec<Function>> {
    let ches = with_settings(Ches::new(), settings)?;
    let settings = ches.settings().clone();
    let functions = blocking_functions(ches.scorer(), settings, ctrl_c(py)?);
    let functions = functions.into_iter();
    Ok(functions.map(|function| Function { function }).collect())
}
