//! Preference pairs from columns, as the functions read them.

use arrow::array::ArrayRef;
use datafusion::error::Result;

use crate::calls::read_pair;
use crate::columns::TextColumn;
use crate::preference_pair::PreferencePair;
use crate::scorer::RowError;

/// Columns of prompt, chosen and rejected texts, or of the two without a prompt, of any type that the
/// functions accept.
#[derive(Debug)]
pub struct PairReader {
    columns: Vec<TextColumn>,
}

impl PairReader {
    /// Reads columns in the order of the functions' arguments.
    ///
    /// # Errors
    /// When a column's type is not accepted; the message says which are.
    pub fn try_new(columns: &[ArrayRef]) -> Result<Self> {
        let columns = columns.iter().map(TextColumn::try_new);
        Ok(Self {
            columns: columns.collect::<Result<_>>()?,
        })
    }

    /// The pair of a row; none where one of its texts is NULL.
    ///
    /// # Errors
    /// When the row is malformed, its texts are no pair, or a response does not begin with the prompt
    /// that it repeats.
    pub fn pair(&self, row: usize) -> Option<Result<PreferencePair, RowError>> {
        if self.columns.iter().any(|column| column.is_null(row)) {
            return None;
        }
        let texts = self.columns.iter().map(|column| column.text(row));
        let texts: Result<Vec<_>, _> = texts.collect();
        Some(texts.map_err(RowError::of_row).and_then(read_pair))
    }
}
