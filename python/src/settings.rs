//! Settings as keyword arguments.

use datafusion_ches::Ches;
use pyo3::PyResult;

use crate::errors::raised;

/// Keys without the prefix `ches.`, and their values as SQL would give them.
pub(crate) type Settings = Vec<(String, String)>;

/// The same, checked.
///
/// # Errors
/// `ValueError`: there is no such key, or it does not accept the value.
pub(crate) fn with_settings(ches: Ches, settings: Settings) -> PyResult<Ches> {
    settings.into_iter().try_fold(ches, |ches, (key, value)| {
        ches.with_setting(&key, &value)
            .map_err(|error| raised(&error))
    })
}
