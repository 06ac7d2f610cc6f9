//! The native half of the Python module `datafusion_ches`: the functions for another DataFusion, and
//! the scoring of Arrow tables, and the reading of files. What people call is in `datafusion_ches/__init__.py`.

mod errors;
mod functions;
mod interrupt;
mod logging;
mod read;
mod settings;
mod table;

use pyo3::prelude::*;

/// What Python imports as `datafusion_ches._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    logging::start();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PAIR_SCORES", table::PAIR_SCORES)?;
    module.add_class::<functions::Function>()?;
    module.add_function(wrap_pyfunction!(functions::functions, module)?)?;
    module.add_function(wrap_pyfunction!(read::read_stream, module)?)?;
    module.add_function(wrap_pyfunction!(table::score_stream, module)?)?;
    module.add_function(wrap_pyfunction!(table::unload, module)?)?;
    Ok(())
}
