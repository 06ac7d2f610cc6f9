//! Files as Arrow tables, by path or URL.

use std::sync::Arc;

use datafusion::common::plan_datafusion_err;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::tables;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::table::{run, stream_of};

/// The rows of a file, a folder, a pattern or a data set of the Hub, in the order of the files' names, as an Arrow C
/// stream.
///
/// # Errors
/// `ValueError`: nothing that can be read is there; `RuntimeError`: it could not be read to its end;
/// `KeyboardInterrupt`.
#[pyfunction]
pub(crate) fn read_stream(py: Python<'_>, place: String) -> PyResult<Bound<'_, PyCapsule>> {
    let work = async move {
        // One partition keeps the rows in their order.
        let config = SessionConfig::new().with_target_partitions(1);
        let ctx = SessionContext::new_with_config(config);
        let table = tables::open(&ctx.state(), &place).await?;
        let table = table
            .ok_or_else(|| plan_datafusion_err!("'{place}': there is no such file or folder"))?;
        let frame = ctx.read_table(table)?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await?;
        Ok((schema, batches))
    };
    let (schema, batches) = run(py, work)?;
    stream_of(py, schema, batches)
}
