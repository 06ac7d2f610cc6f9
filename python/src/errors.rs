//! Errors as Python's.

use datafusion::error::DataFusionError;
use pyo3::PyErr;
use pyo3::exceptions::{PyRuntimeError, PyValueError};

/// `ValueError` where the caller asked for what is not accepted, `RuntimeError` otherwise.
pub(crate) fn raised(error: &DataFusionError) -> PyErr {
    let message = match error.find_root() {
        DataFusionError::Configuration(message)
        | DataFusionError::Plan(message)
        | DataFusionError::Execution(message) => message.clone(),
        root => root.strip_backtrace(),
    };
    match error.find_root() {
        DataFusionError::Configuration(_)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..) => PyValueError::new_err(message),
        _ => PyRuntimeError::new_err(message),
    }
}
