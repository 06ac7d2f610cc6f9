//! The literal by which a call says what it needs.

use datafusion::common::ScalarValue;

use crate::scorer::Needs;

/// What the literal says.
pub(super) fn stated_needs(literal: &ScalarValue) -> Option<Needs> {
    let names = literal.try_as_str()??;
    bitflags::parser::from_str(names).ok()
}
