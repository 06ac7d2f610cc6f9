//! What the structs of a pair's functions have in common: rows of scores, as columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Fields;
use datafusion::error::Result;

use super::request::Outcome;
use crate::scorer::PairScores;

/// Rows of scores.
pub(super) struct PairColumns {
    rows: Vec<PairScores>,
    valid: NullBuffer,
}

impl PairColumns {
    /// A row that failed has its reason and no scores.
    pub(super) fn new(rows: Vec<Outcome<PairScores>>) -> Self {
        let valid: NullBuffer = rows.iter().map(Option::is_some).collect();
        let scores = |row: Outcome<PairScores>| match row {
            Some(Ok(scores)) => scores,
            Some(Err(error)) => PairScores {
                no_score: Some(error.reason),
                ..PairScores::default()
            },
            None => PairScores::default(),
        };
        Self {
            rows: rows.into_iter().map(scores).collect(),
            valid,
        }
    }

    pub(super) fn scores(&self) -> impl Iterator<Item = &PairScores> + Clone {
        self.rows.iter()
    }

    pub(super) fn float(&self, of: impl Fn(&PairScores) -> Option<f64>) -> ArrayRef {
        Arc::new(self.rows.iter().map(of).collect::<Float64Array>())
    }

    pub(super) fn count(&self, of: impl Fn(&PairScores) -> Option<i32>) -> ArrayRef {
        Arc::new(self.rows.iter().map(of).collect::<Int32Array>())
    }

    pub(super) fn truth(&self, of: impl Fn(&PairScores) -> Option<bool>) -> ArrayRef {
        Arc::new(self.rows.iter().map(of).collect::<BooleanArray>())
    }

    /// Why rows have no scores.
    pub(super) fn error(&self) -> ArrayRef {
        let reasons = self.rows.iter().map(|row| row.no_score.as_deref());
        Arc::new(reasons.collect::<StringArray>())
    }

    /// Structs of columns, NULL where the guard is not true.
    pub(super) fn structs(&self, fields: Fields, columns: Vec<ArrayRef>) -> Result<ArrayRef> {
        let structs = StructArray::try_new(fields, columns, Some(self.valid.clone()))?;
        Ok(Arc::new(structs))
    }
}
