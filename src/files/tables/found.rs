//! The files that a place has for a session.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::SessionState;
use object_store::ObjectStore;

#[cfg(feature = "remote")]
use super::dataset;
use super::listing::{self, Files};
use super::location::Location;

/// Lists them.
///
/// # Errors
/// When there are none that can be read, or of several formats.
pub(super) async fn found(
    state: &SessionState,
    store: &Arc<dyn ObjectStore>,
    place: &Location,
) -> Result<Files> {
    let is_known = |extension: &str| state.get_file_format_factory(extension).is_some();
    #[cfg(feature = "remote")]
    if dataset::is_whole(place) {
        return dataset::list(store, place, is_known).await;
    }
    listing::list(store, place, is_known).await
}
