//! `ches --cluster`: a session whose queries run on a cluster.

use std::sync::Arc;
use std::time::Duration;

use ballista::prelude::SessionContextExt;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{ChesSettings, SessionExtension};

use super::ModelName;
use super::planner::Planner;

/// From now on a session's queries are sent to the scheduler at a URL. Says what plans them.
///
/// # Errors
/// When no scheduler listens at the URL, or `ches.model` is set and cannot be opened to be compared with the executors'.
pub(crate) async fn connect(ctx: &SessionContext, url: &str) -> Result<Arc<Planner>> {
    super::reachable(url, Duration::ZERO).await?;
    let state = ctx.state();
    let mut settings = ChesSettings::of(state.config().options());
    let scorer = ModelScorer::new();
    if settings.model.is_some() {
        let opened = scorer.encode_pairs(&settings, Vec::new()).await;
        opened.map_err(|error| DataFusionError::Configuration(error.to_string()))?;
    }
    let name = ModelName::of(&scorer, &settings).to_string();
    let planner = Arc::new(Planner::new(scorer, settings.model.replace(name)));
    let remote = SessionContext::remote_with_state(url, state).await?;
    // Ballista has put its own functions in the place of all.
    let extension = SessionExtension::new(Arc::clone(&planner) as _);
    let builder = SessionStateBuilder::new_from_existing(remote.state());
    let builder = builder.with_session_id(remote.session_id());
    let state = extension.add_to_planner(builder, settings).build();
    // In its place: tables by URL ask the session that they know.
    *ctx.state_ref().write() = state;
    Ok(planner)
}
