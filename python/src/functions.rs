//! The SQL functions, for the DataFusion of the Python package `datafusion`.

use std::ffi::CStr;
use std::sync::Arc;

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;
use datafusion_ches::Ches;
use datafusion_ches::ches_udfs::{Interruption, blocking_functions};
use datafusion_ffi::udf::FFI_ScalarUDF;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

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

/// Ctrl-C, where a query runs on the thread that registers its functions. Other threads hear of no
/// signals, and may not wait for Python while that one does.
fn ctrl_c() -> Interruption {
    let registering = std::thread::current().id();
    Arc::new(move || -> Result<()> {
        if std::thread::current().id() != registering {
            return Ok(());
        }
        let interrupt = Python::try_attach(|py| {
            let interrupt = py.check_signals().err()?;
            let said = interrupt.to_string();
            // The query fails first; Python raises it again when that is told.
            if interrupt.is_instance_of::<PyKeyboardInterrupt>(py) {
                // SAFETY: Python allows it at any time.
                unsafe { pyo3::ffi::PyErr_SetInterrupt() };
            }
            Some(said)
        });
        match interrupt.flatten() {
            Some(interrupt) => Err(exec_datafusion_err!("{interrupt}")),
            None => Ok(()),
        }
    })
}

/// Every public function, under these settings, by one scorer.
///
/// # Errors
/// `ValueError`: a setting does not accept its value.
#[pyfunction]
pub fn functions(settings: Settings) -> PyResult<Vec<Function>> {
    let ches = with_settings(Ches::new(), settings)?;
    let scorer = ches.scorer();
    let functions = blocking_functions(scorer, ches.settings().clone(), ctrl_c());
    let functions = functions.into_iter();
    Ok(functions.map(|function| Function { function }).collect())
}
