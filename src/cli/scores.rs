//! What scoring came to: the sums of the counters of plans.

use std::fmt::{self, Display};
use std::sync::Arc;

use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion_ches::ches_udfs::ScoreExec;
use serde::{Deserialize, Serialize};

/// How the names of columns of scores end that are NULL where a row has none, as the plan calls them.
const SCORES: [&str; 6] = [
    "_ches",
    "_ches_normalized",
    "_last_hidden_similarity",
    "_chosen_logprob",
    "_rejected_logprob",
    "_log_prob",
];

/// Counts of rows, each time that a row was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scores {
    /// With scores.
    pub scored: usize,
    /// With an error that `ches.on_error = 'null'` let through.
    pub failed: usize,
    /// Of which `ches.max_length` cut a response.
    pub truncated: usize,
    /// Without a score by definition.
    pub skipped: usize,
    /// Whose scores the cache had.
    pub cache_hits: usize,
    /// Whose scores the process remembered.
    pub memo_hits: usize,
    /// Tokens of prompts and responses that were computed.
    pub tokens: usize,
    /// Of the failed and the skipped, those that are in the result.
    #[serde(default)]
    pub unscored_in_result: usize,
    /// Whether these are so many at most, since something that may drop them stands between.
    #[serde(default)]
    pub unscored_at_most: bool,
}

/// How many of the rows without a score come from a place in a plan to its end.
#[derive(Clone, Copy)]
enum Above {
    All,
    Part,
    /// Some, and maybe several times.
    Repeated,
    Nothing,
}

impl Scores {
    /// The counters of a plan so far; none if it scores nothing.
    pub(super) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let mut scores = None;
        visit(plan, Above::All, usize::MAX, &mut scores);
        scores
    }

    /// The counters of one node. `most`: the rows that come from it to the plan's end are no more.
    fn of_node(node: &Arc<dyn ExecutionPlan>, above: Above, most: usize) -> Self {
        let metrics = node.metrics().unwrap_or_default();
        let count = |name: &str| metrics.sum_by_name(name).map_or(0, |of| of.as_usize());
        let mut scores = Self {
            scored: count("rows_scored"),
            failed: count("failed_rows"),
            truncated: count("truncated_rows"),
            skipped: count("skipped_rows"),
            cache_hits: count("cache_hits"),
            memo_hits: count("memo_hits"),
            tokens: count("tokens"),
            ..Self::default()
        };
        let unscored = scores.failed + scores.skipped;
        match above {
            Above::Nothing => {}
            Above::All if calls(node) == 1 => scores.unscored_in_result = unscored,
            Above::Repeated if unscored > 0 && most < usize::MAX => {
                scores.unscored_in_result = most;
                scores.unscored_at_most = most > 0;
            }
            // A row may be without several scores.
            Above::All | Above::Part | Above::Repeated => {
                scores.unscored_in_result = unscored.min(most);
                scores.unscored_at_most = scores.unscored_in_result > 0;
            }
        }
        scores
    }

    /// Adds the counts of other plans.
    pub(super) fn add(&mut self, more: &Self) {
        self.scored += more.scored;
        self.failed += more.failed;
        self.truncated += more.truncated;
        self.skipped += more.skipped;
        self.cache_hits += more.cache_hits;
        self.memo_hits += more.memo_hits;
        self.tokens += more.tokens;
        self.unscored_in_result += more.unscored_in_result;
        self.unscored_at_most |= more.unscored_at_most;
    }
}

/// The parts add up to the rows.
impl Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.scored + self.failed + self.skipped;
        // A failed row may have been one of several equal ones.
        let cached = self.cache_hits.min(self.scored);
        let remembered = self.memo_hits.min(self.scored - cached);
        let computed = self.scored - cached - remembered;
        write!(
            f,
            "{rows} rows: {computed} computed, {cached} from the cache"
        )?;
        if remembered > 0 {
            write!(f, ", {remembered} remembered")?;
        }
        if self.failed > 0 {
            write!(f, ", {} failed (their error says why)", self.failed)?;
        }
        if self.skipped > 0 {
            write!(
                f,
                ", {} without a score (a NULL, an empty response, or a prompt without room for one)",
                self.skipped
            )?;
        }
        if self.failed + self.skipped > 0 {
            let up_to = if self.unscored_at_most { "up to " } else { "" };
            let rows = self.unscored_in_result;
            write!(f, "; in the result: {up_to}{rows} without a score")?;
        }
        if self.truncated > 0 {
            write!(f, "; {} truncated", self.truncated)?;
        }
        Ok(())
    }
}

/// Adds what the nodes of a plan counted. `above`: what is done with the rows of `node`; of them no more
/// than `most` come to the plan's end.
fn visit(node: &Arc<dyn ExecutionPlan>, above: Above, most: usize, scores: &mut Option<Scores>) {
    let is_scoring = node.downcast_ref::<ScoreExec>().is_some();
    if is_scoring {
        let of_node = Scores::of_node(node, above, most);
        scores.get_or_insert_with(Scores::default).add(&of_node);
    }
    let filter = node.downcast_ref::<FilterExec>();
    let drops_unscored = filter.is_some_and(drops_unscored);
    // What a COPY writes is its result.
    let is_sink = node.name() == "DataSinkExec";
    let rows = node.metrics().and_then(|metrics| metrics.output_rows());
    let most = most.min(rows.filter(|_| !is_sink).unwrap_or(usize::MAX));
    let effect = match is_sink {
        true => CardinalityEffect::Equal,
        false => node.cardinality_effect(),
    };
    let below = match (above, effect) {
        (Above::Nothing, _) => Above::Nothing,
        _ if drops_unscored => Above::Nothing,
        (Above::Repeated, _)
        | (_, CardinalityEffect::Unknown | CardinalityEffect::GreaterEqual) => Above::Repeated,
        // Its own rows without a score may be those of a call below.
        (Above::All, CardinalityEffect::Equal) if !is_scoring => Above::All,
        (Above::All | Above::Part, _) => Above::Part,
    };
    for child in node.children() {
        visit(child, below, most, scores);
    }
}

/// How many calls a [`ScoreExec`] makes.
fn calls(node: &Arc<dyn ExecutionPlan>) -> usize {
    let below = node.children().into_iter().next();
    let below = below.map_or(0, |input| input.schema().fields().len());
    node.schema().fields().len() - below
}

/// Whether a filter lets no row pass that has no score: it compares a score, or asks for one. Not where
/// there are scores of several calls.
fn drops_unscored(filter: &FilterExec) -> bool {
    let mut made = 0;
    let mut input = Some(filter.input());
    while let Some(node) = input {
        if node.downcast_ref::<ScoreExec>().is_some() {
            made += calls(node);
        }
        input = match &node.children()[..] {
            [] => None,
            [only] => Some(*only),
            // Of several tables, not all of which need have a score here.
            _ => return false,
        };
    }
    let conditions = split_conjunction(filter.predicate());
    made == 1 && conditions.into_iter().any(asks_for_a_score)
}

fn asks_for_a_score(condition: &Arc<dyn PhysicalExpr>) -> bool {
    if let Some(is_not_null) = condition.downcast_ref::<IsNotNullExpr>() {
        return is_score(is_not_null.arg());
    }
    let Some(comparison) = condition.downcast_ref::<BinaryExpr>() else {
        return false;
    };
    let is_of_score = is_score(comparison.left()) || is_score(comparison.right());
    is_of_score && comparison.op().returns_null_on_null()
}

fn is_score(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(column) = expr.downcast_ref::<Column>() else {
        return false;
    };
    let name = column.name();
    name.starts_with("__ches_") && SCORES.iter().any(|score| name.ends_with(score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let scores = Scores {
            scored: 495,
            failed: 3,
            skipped: 2,
            cache_hits: 328,
            unscored_in_result: 5,
            ..Scores::default()
        };
        let expected = "500 rows: 167 computed, 328 from the cache, 3 failed (their error says why), 2 \
                        without a score (a NULL, an empty response, or a prompt without room for one); \
                        in the result: 5 without a score";
        assert_eq!(scores.to_string(), expected);
        let twice = Scores {
            scored: 2,
            memo_hits: 3,
            failed: 2,
            ..Scores::default()
        };
        assert!(
            twice
                .to_string()
                .starts_with("4 rows: 0 computed, 0 from the cache, 2 remembered, 2 failed")
        );
    }
}
