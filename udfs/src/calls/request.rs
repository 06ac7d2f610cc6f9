//! A batch of a hidden function: reading its rows, and what a row error does.
//!
//! The first argument is a literal that names what is needed ([`Needs`](crate::scorer::Needs)), the
//! second the guard, the others are text columns.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::FieldRef;
use datafusion::common::{exec_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use super::needs::stated_needs;
use crate::columns::TextColumn;
use crate::failures::Failures;
use crate::likely_mistakes::Tally;
use crate::query_resources::QueryResources;
use crate::scorer::{Argument, Job, RowError, ScorerError};
use crate::settings::{ChesSettings, OnError};
use crate::template_variables::{TemplateVariables, VariableColumns};
use crate::text::Text;

/// The outcome of a row: `None` where the guard is not true. A NULL argument is an error that no query
/// fails for.
pub(super) type Outcome<S> = Option<Result<S, RowError>>;

/// A batch, read: the items for the scorer, and which rows they stand for.
pub(super) struct Request<T> {
    pub job: Job,
    pub items: Vec<T>,
    /// What looks like a mistake in the items is counted here.
    pub tally: Option<Arc<Tally>>,
    failures: Option<Arc<Failures>>,
    texts: Vec<TextArgument>,
    rows: Vec<Row>,
    arguments: &'static [Argument],
    /// The column of each argument; none of a constant.
    columns: Vec<Option<FieldRef>>,
}

enum Row {
    /// The guard is not true.
    Excluded,
    /// Without scores: an argument is NULL, or malformed.
    Unscored(RowError),
    /// By the item of that number.
    Scored(usize),
}

/// Columns that the optimizer carries through a plan: this, a number, and the name before.
pub(crate) const CARRIED_PREFIX: &str = "__ches_text_";

/// The name that a column has for the author of the query.
pub(crate) fn shown_name(name: &str) -> &str {
    let carried = name.strip_prefix(CARRIED_PREFIX);
    let before = carried.and_then(|carried| carried.split_once('_'));
    before.map_or(name, |(_, before)| before)
}

impl<T> Request<T> {
    /// Reads every row by `read`, which gets the row's texts in the order of the arguments.
    ///
    /// # Errors
    /// When a row is malformed and `ches.on_error` is `fail`.
    pub(super) fn read(
        args: &ScalarFunctionArgs,
        arguments: impl FnOnce(usize) -> Option<&'static [Argument]>,
        read: impl Fn(Vec<Text>, TemplateVariables) -> Result<T, RowError>,
    ) -> Result<Self> {
        let [_, guard, texts @ ..] = &args.args[..] else {
            return internal_err!("a scoring call with {} arguments", args.args.len());
        };
        let Some(arguments) = arguments(texts.len()) else {
            return internal_err!("a scoring call with {} texts", texts.len());
        };
        let resources = args.config_options.extensions.get::<QueryResources>();
        let resources = resources.cloned().unwrap_or_default();
        let mut request = Self {
            tally: resources.tally.clone(),
            failures: resources.failures.clone(),
            texts: texts
                .iter()
                .map(TextArgument::try_new)
                .collect::<Result<_>>()?,
            job: job(args, resources)?,
            items: Vec::new(),
            rows: Vec::new(),
            arguments,
            columns: std::iter::zip(texts, &args.arg_fields[2..])
                .map(|(text, field)| (!is_constant(text)).then(|| field.clone()))
                .collect(),
        };
        // Constants are scored once for all rows.
        let is_one = texts.iter().all(is_constant);
        let guard = guard.to_array(args.number_rows)?;
        let Some(guard) = guard.as_boolean_opt() else {
            return internal_err!("a scoring call with a guard of {}", guard.data_type());
        };
        for row in 0..args.number_rows {
            if guard.is_null(row) || !guard.value(row) {
                request.rows.push(Row::Excluded);
                continue;
            }
            if is_one && !request.items.is_empty() {
                request.rows.push(Row::Scored(0));
                continue;
            }
            if let Some(error) = null_arguments(&request.texts, row, arguments) {
                request.job.metrics.skipped_rows.add(1);
                request.rows.push(Row::Unscored(error));
                continue;
            }
            let texts = texts_of_row(&request.texts, row, arguments);
            let row = match texts.and_then(|(texts, variables)| read(texts, variables)) {
                Ok(item) => {
                    request.items.push(item);
                    Row::Scored(request.items.len() - 1)
                }
                Err(error) => Row::Unscored(request.accept(row, args.number_rows, error)?),
            };
            request.rows.push(row);
        }
        Ok(request)
    }

    /// Joins the scorer's results with the rows that it was not asked about. `is_skipped` tells
    /// whether scores are none by definition.
    ///
    /// # Errors
    /// When the scorer failed, or a row did and `ches.on_error` is `fail`.
    pub(super) fn finish<S: Clone>(
        mut self,
        scored: Result<Vec<Result<S, RowError>>, ScorerError>,
        is_skipped: impl Fn(&S) -> bool,
    ) -> Result<Vec<Outcome<S>>> {
        let scored = scored.map_err(|error| match error {
            ScorerError::Setting { .. } => DataFusionError::Configuration(error.to_string()),
            ScorerError::Other(error) => DataFusionError::External(error),
        })?;
        let expected = self.rows.iter().filter_map(|row| match row {
            Row::Scored(item) => Some(item + 1),
            _ => None,
        });
        if expected.max().unwrap_or(0) != scored.len() {
            return internal_err!("the scorer returned {} results", scored.len());
        }
        let rows = std::mem::take(&mut self.rows);
        let count = rows.len();
        let is_asked_for = |row: &&Row| !matches!(row, Row::Excluded);
        let asked_for = rows.iter().filter(is_asked_for).count();
        let outcomes: Vec<_> = rows
            .into_iter()
            .enumerate()
            .map(|(at, row)| match row {
                Row::Excluded => Ok(None),
                Row::Unscored(error) => Ok(Some(Err(error))),
                Row::Scored(item) => match &scored[item] {
                    Err(error) => Ok(Some(Err(self.accept(at, count, error.clone())?))),
                    Ok(scores) => {
                        let metrics = &self.job.metrics;
                        if is_skipped(scores) {
                            metrics.skipped_rows.add(1);
                        } else {
                            metrics.rows.add(1);
                        }
                        Ok(Some(Ok(scores.clone())))
                    }
                },
            })
            .collect::<Result<_>>()?;
        if let Some(failures) = &self.failures {
            failures.add_rows(asked_for, &self.job.settings)?;
        }
        Ok(outcomes)
    }

    /// Lets a row error through where `ches.on_error` is `null`; otherwise the query fails.
    fn accept(&self, row: usize, rows: usize, error: RowError) -> Result<RowError> {
        if self.job.settings.on_error == OnError::Null {
            self.job.metrics.failed_rows.add(1);
            if let Some(failures) = &self.failures {
                failures.add(&error.reason);
            }
            return Ok(error);
        }
        let place = error
            .argument
            .and_then(|argument| {
                let at = self.arguments.iter().position(|a| *a == argument)?;
                Some(match &self.columns[at] {
                    Some(column) => {
                        let column = shown_name(column.name());
                        format!(", {argument} (column '{column}')")
                    }
                    None => format!(", {argument} (a constant)"),
                })
            })
            .unwrap_or_default();
        exec_err!(
            "row {} of this batch of {rows}{place}: {}; the row is {} (with ches.on_error = 'null' such a \
             row's scores are NULL)",
            row + 1,
            error.reason,
            self.beginnings(row)
        )
    }

    /// How the texts of a row begin.
    fn beginnings(&self, row: usize) -> String {
        let texts = self.arguments.iter().zip(&self.texts);
        let beginning = |(argument, text): (&Argument, &TextArgument)| {
            let text = text.column.beginning(text.at(row));
            format!("{argument} {text}")
        };
        texts.map(beginning).collect::<Vec<_>>().join(", ")
    }
}

/// A column of texts, or one text for all rows.
struct TextArgument {
    column: TextColumn,
    /// What stands beside the text for the chat template.
    variables: Option<VariableColumns>,
    is_constant: bool,
}

impl TextArgument {
    fn try_new(arg: &ColumnarValue) -> Result<Self> {
        let array: ArrayRef = match arg {
            ColumnarValue::Array(array) => array.clone(),
            ColumnarValue::Scalar(value) => value.to_array_of_size(1)?,
        };
        let (array, variables) = match VariableColumns::try_new(&array)? {
            Some((text, variables)) => (text, Some(variables)),
            None => (array, None),
        };
        Ok(Self {
            column: TextColumn::try_new(&array)?,
            variables,
            is_constant: is_constant(arg),
        })
    }

    /// Where the text of a row stands.
    fn at(&self, row: usize) -> usize {
        if self.is_constant { 0 } else { row }
    }
}

fn is_constant(arg: &ColumnarValue) -> bool {
    matches!(arg, ColumnarValue::Scalar(_))
}

/// Which arguments of a row are NULL, if any are.
fn null_arguments(texts: &[TextArgument], row: usize, arguments: &[Argument]) -> Option<RowError> {
    let mut nulls = texts
        .iter()
        .zip(arguments)
        .filter(|(text, _)| text.column.is_null(text.at(row)))
        .map(|(_, argument)| *argument);
    let first = nulls.next()?;
    let others: Vec<String> = nulls.map(|argument| format!(" and {argument}")).collect();
    Some(match others.is_empty() {
        true => RowError::of(first, format!("{first} is NULL")),
        false => RowError::of_row(format!("{first}{} are NULL", others.concat())),
    })
}

/// A row's texts, of which none is NULL, and what stands beside them.
fn texts_of_row(
    texts: &[TextArgument],
    row: usize,
    arguments: &[Argument],
) -> Result<(Vec<Text>, TemplateVariables), RowError> {
    let beside = texts.iter().find_map(|text| {
        let variables = text.variables.as_ref()?;
        Some(variables.row(text.at(row)))
    });
    let variables = beside.unwrap_or_else(|| Ok(Vec::new()));
    let variables = variables.map_err(RowError::of_row)?;
    let text = |(text, argument): (&TextArgument, &Argument)| {
        let read = text.column.text(text.at(row));
        read.map_err(|reason| RowError::of(*argument, reason))
    };
    let texts = texts.iter().zip(arguments).map(text);
    Ok((texts.collect::<Result<_, _>>()?, variables))
}

fn job(args: &ScalarFunctionArgs, resources: QueryResources) -> Result<Job> {
    let needs = match &args.args[0] {
        ColumnarValue::Scalar(value) => stated_needs(value),
        ColumnarValue::Array(_) => None,
    };
    let Some(needs) = needs else {
        return internal_err!(
            "a scoring call whose first argument names no needs: {:?}",
            args.args[0]
        );
    };
    Ok(Job {
        settings: ChesSettings::of(&args.config_options),
        needs,
        metrics: resources.metrics,
        memory: resources.memory,
    })
}
