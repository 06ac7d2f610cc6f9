//! What attention and log-probabilities do alike, on one row at a time.

use super::exp::{exp, tanh};

/// Bends numbers to stay within a cap of either sign, if there is one.
#[inline(always)]
pub(super) fn soft_cap(row: &mut [f32], cap: Option<f64>) {
    if let Some(cap) = cap {
        let cap = cap as f32;
        row.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }
}

/// Makes each `x` of a row `eˣ⁻ʰ`, `h` being the highest; returns `h` and the new numbers' sum.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32]) -> (f32, f32) {
    let highest = highest(row);
    (highest, exponentials_from(row, highest))
}

/// The highest number of a row.
#[inline(always)]
pub(super) fn highest(row: &[f32]) -> f32 {
    by_lanes(row, f32::NEG_INFINITY, f32::max, f32::max)
}

/// Makes each `x` of a row `eˣ⁻ʰ` and returns the new numbers' sum.
#[inline(always)]
pub(super) fn exponentials_from(row: &mut [f32], h: f32) -> f32 {
    row.iter_mut().for_each(|x| *x = exp(*x - h));
    sum_of(row, |x| x)
}

/// Adds up what is made of each number.
#[inline(always)]
pub(super) fn sum_of(numbers: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    by_lanes(numbers, 0.0, |sum, x| sum + of(x), |a, b| a + b)
}

/// Takes numbers into lanes, and joins the lanes: an order that vector code can follow.
#[inline(always)]
fn by_lanes(
    numbers: &[f32],
    start: f32,
    take: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; 16];
    let (chunks, rest) = numbers.as_chunks::<16>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = take(*lane, *number);
        }
    }
    let rest = rest.iter().fold(start, |lane, number| take(lane, *number));
    lanes.into_iter().fold(rest, join)
}
