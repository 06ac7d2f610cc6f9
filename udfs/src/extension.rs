//! What a session needs to answer queries with scores.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::optimizer::OptimizerRule;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::SessionContext;

use crate::calls::{self, FieldAccess, Interruption, TemplateColumns};
use crate::functions;
use crate::optimizer::HoistScores;
use crate::score_exec::UseScoreExec;
use crate::scorer::Scorer;
use crate::settings::ChesSettings;

/// What a host adds that builds its session itself.
///
/// Only the functions and the settings are needed to answer queries with scores in the SELECT
/// list and in WHERE; each other part says what it adds. [`SessionExtension::add_to`] adds them all.
#[derive(Debug, Clone)]
pub struct SessionExtension {
    /// The public functions, for a function registry.
    pub functions: Vec<Arc<ScalarUDF>>,
    /// The functions that these are rewritten to, which an engine that sends plans to other processes
    /// resolves by name. Where plans stay in the process, no registry is asked for them.
    pub hidden_functions: Vec<Arc<ScalarUDF>>,
    /// Keeps `preference_scores(..)['field']` one call of the model; for
    /// `FunctionRegistry::register_function_rewrite`.
    pub field_access: Arc<dyn FunctionRewrite + Send + Sync>,
    /// Gives the columns that `ches.tools_column` and `ches.chat_template_kwargs_column` name to the chat
    /// template; for `FunctionRegistry::register_function_rewrite`.
    pub template_columns: Arc<dyn FunctionRewrite + Send + Sync>,
    /// Lets scores stand wherever an expression may, and computes each once and late; to be the
    /// last optimizer rule. A [`HoistScores`](crate::HoistScores).
    pub hoist_scores: Arc<dyn OptimizerRule + Send + Sync>,
    /// Counts for `EXPLAIN ANALYZE`; to be the first physical optimizer rule. A planner whose
    /// plans run in other processes goes without. A [`UseScoreExec`](crate::UseScoreExec).
    pub use_score_exec: Arc<dyn PhysicalOptimizerRule + Send + Sync>,
}

impl SessionExtension {
    /// Every function of this crate, with scores computed by `scorer`, and the rules that they need.
    pub fn new(scorer: Arc<dyn Scorer>) -> Self {
        let never: Interruption = Arc::new(|| Box::new(|| Ok(())));
        let (calls, twins) = calls::calls(&scorer, &never);
        let twins = twins.to_vec();
        let functions = functions::public(&calls);
        let pick = Arc::clone(&calls.pick);
        let field_access = Arc::new(FieldAccess {
            pick: Arc::clone(&pick),
        });
        let beside = calls::beside();
        let template_columns = Arc::new(TemplateColumns {
            beside: Arc::clone(&beside),
        });
        let provenance = calls::provenance();
        let mut hidden_functions = vec![calls.score_pair, calls.score_response, calls.pick];
        hidden_functions.extend([Arc::clone(&provenance), beside]);
        hidden_functions.extend(twins.iter().cloned());
        let hoist_scores = HoistScores {
            scorer,
            pick,
            provenance,
            blocking: twins,
        };
        Self {
            functions,
            hidden_functions,
            field_access,
            template_columns,
            hoist_scores: Arc::new(hoist_scores),
            use_score_exec: Arc::new(UseScoreExec),
        }
    }

    /// Adds every part, and `settings` as the session's `ches.*` settings, to a session that is
    /// being built.
    ///
    /// Rules of an earlier call are replaced.
    pub fn add_to(
        &self,
        builder: SessionStateBuilder,
        settings: ChesSettings,
    ) -> SessionStateBuilder {
        let mut builder = self.add_rules(builder, settings);
        let rules = &mut builder.physical_optimizers().get_or_insert_default().rules;
        rules.insert(0, Arc::clone(&self.use_score_exec));
        builder
    }

    /// Adds what a session needs whose plans run in other processes: everything but
    /// [`SessionExtension::use_score_exec`], the hidden functions, too.
    pub fn add_to_planner(
        &self,
        builder: SessionStateBuilder,
        settings: ChesSettings,
    ) -> SessionStateBuilder {
        let mut builder = self.add_rules(builder, settings);
        let functions = builder.scalar_functions().get_or_insert_default();
        functions.extend(self.hidden_functions.iter().cloned());
        builder
    }

    fn add_rules(
        &self,
        mut builder: SessionStateBuilder,
        settings: ChesSettings,
    ) -> SessionStateBuilder {
        let config = builder.config().get_or_insert_default();
        config.options_mut().extensions.insert(settings);
        let functions = builder.scalar_functions().get_or_insert_default();
        functions.extend(self.functions.iter().cloned());
        let analyzer = builder.analyzer().get_or_insert_default();
        let rewrites = &mut analyzer.function_rewrites;
        for ours in [&self.field_access, &self.template_columns] {
            rewrites.retain(|rewrite| rewrite.name() != ours.name());
            rewrites.push(Arc::clone(ours));
        }
        let rules = &mut builder.optimizer().get_or_insert_default().rules;
        rules.retain(|rule| rule.name() != self.hoist_scores.name());
        rules.push(Arc::clone(&self.hoist_scores));
        let rules = &mut builder.physical_optimizers().get_or_insert_default().rules;
        rules.retain(|rule| rule.name() != self.use_score_exec.name());
        builder
    }
}

/// Extends a [`SessionContext`]: adds every function of this crate, computed by
/// `scorer`, the rules that they need, and the `ches.*` settings, starting from `settings`.
///
/// To be called when the session is made: statements that were prepared before are forgotten. A
/// host that builds its `SessionState` itself uses a [`SessionExtension`].
///
/// # Errors
/// None yet; a later version of DataFusion may refuse a function.
pub fn register(
    ctx: &SessionContext,
    scorer: Arc<dyn Scorer>,
    settings: ChesSettings,
) -> Result<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    let id = state.session_id().to_owned();
    let builder = SessionStateBuilder::new_from_existing(state.clone()).with_session_id(id);
    *state = SessionExtension::new(scorer)
        .add_to(builder, settings)
        .build();
    Ok(())
}
