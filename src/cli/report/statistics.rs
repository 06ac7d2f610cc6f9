//! Quantiles, bins and rank correlation of columns of finite numbers.

/// The axis of a histogram: equal bins between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub bins: usize,
}

/// The shares of the values that an axis may leave out at each end, in the order they are tried.
const CLIPPED: [f64; 3] = [0.005, 0.025, 0.05];

/// Quartile distances that a clear axis is long at most.
const CLEAR: f64 = 10.0;

impl Axis {
    /// An axis for these values, in ascending order, that leaves out some at an end only where
    /// they lie far from the rest. Bins of whole numbers hold the same number of them each.
    pub(super) fn of(sorted: &[f64], most_bins: usize, whole: bool) -> Self {
        let (first, last) = match (sorted.first(), sorted.last()) {
            (Some(first), Some(last)) => (*first, *last),
            _ => (0.0, 1.0),
        };
        let between = |share: f64| (quantile(sorted, share), quantile(sorted, 1.0 - share));
        let quartiles = between(0.25);
        let clear = |(low, high): &(f64, f64)| {
            let distance = quartiles.1 - quartiles.0;
            distance == 0.0 || high - low <= CLEAR * distance
        };
        let mut tried = CLIPPED.map(between).into_iter();
        let (mut low, mut high) = tried.find(clear).unwrap_or_else(|| between(CLIPPED[2]));
        let near = (high - low) / 4.0;
        if low - first <= near {
            low = first;
        }
        if last - high <= near {
            high = last;
        }
        if whole {
            (low, high) = (low.floor(), high.ceil());
            if low == high {
                (low, high) = (low - 2.0, high + 2.0);
            }
            let width = ((high - low + 1.0) / most_bins as f64).ceil();
            let bins = ((high - low + 1.0) / width).ceil();
            return Self {
                low: low - 0.5,
                high: low - 0.5 + width * bins,
                bins: bins as usize,
            };
        }
        let size = low.abs().max(high.abs());
        if high - low <= 1e-9 * size {
            let half = if size > 0.0 { size / 2.0 } else { 0.5 };
            (low, high) = (low - half, high + half);
        }
        Self {
            low,
            high,
            bins: most_bins,
        }
    }

    /// The bin of a value.
    pub(super) fn bin(&self, value: f64) -> Option<usize> {
        if value < self.low || value > self.high {
            return None;
        }
        let share = (value - self.low) / (self.high - self.low);
        Some(((share * self.bins as f64) as usize).min(self.bins - 1))
    }

    /// Where a bin begins; of the number of bins, where the last one ends.
    pub(super) fn edge(&self, bin: usize) -> f64 {
        self.low + (self.high - self.low) * (bin as f64 / self.bins as f64)
    }

    /// The value, or the end of the axis that it lies beyond.
    pub(super) fn clamp(&self, value: f64) -> f64 {
        value.max(self.low).min(self.high)
    }
}

/// In ascending order.
pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The quantile of values in ascending order, interpolated linearly; 0 of none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share * last as f64;
    let below = sorted[(place.floor() as usize).min(last)];
    let above = sorted[(place.ceil() as usize).min(last)];
    below + (above - below) * place.fract()
}

/// Rows in each bin, and beyond the ends of the axis.
#[derive(Debug, PartialEq)]
pub(super) struct Histogram {
    pub counts: Vec<u64>,
    pub below: u64,
    pub above: u64,
}

pub(super) fn histogram(values: &[f64], axis: &Axis) -> Histogram {
    let mut histogram = Histogram {
        counts: vec![0; axis.bins],
        below: 0,
        above: 0,
    };
    for value in values {
        match axis.bin(*value) {
            Some(bin) => histogram.counts[bin] += 1,
            None if *value < axis.low => histogram.below += 1,
            None => histogram.above += 1,
        }
    }
    histogram
}

/// Rows in each cell, and outside both axes.
#[derive(Debug, PartialEq)]
pub(super) struct Density {
    /// For each bin of y, lowest first, the counts of the bins of x.
    pub counts: Vec<Vec<u64>>,
    pub outside: u64,
}

/// A histogram in two dimensions.
pub(super) fn density(xs: &[f64], ys: &[f64], x_axis: &Axis, y_axis: &Axis) -> Density {
    let mut density = Density {
        counts: vec![vec![0; x_axis.bins]; y_axis.bins],
        outside: 0,
    };
    for (x, y) in xs.iter().zip(ys) {
        match (x_axis.bin(*x), y_axis.bin(*y)) {
            (Some(column), Some(row)) => density.counts[row][column] += 1,
            _ => density.outside += 1,
        }
    }
    density
}

/// The quartiles of y where x is about this.
#[derive(Debug, PartialEq)]
pub(super) struct Quartiles {
    /// The median of the bin's x.
    pub x: f64,
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

/// The quartiles of y in bins of x of about equal numbers of rows; equal x are in one bin.
pub(super) fn binned_quartiles(xs: &[f64], ys: &[f64], bins: usize) -> Vec<Quartiles> {
    let mut rows: Vec<(f64, f64)> = xs.iter().copied().zip(ys.iter().copied()).collect();
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let least = rows.len().div_ceil(bins.max(1)).max(1);
    let mut quartiles = Vec::new();
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let last = rest[least.min(rest.len()) - 1].0;
        let mut end = rest.partition_point(|(x, _)| *x <= last).max(1);
        if rest.len() - end < least / 2 {
            end = rest.len();
        }
        let (bin, after) = rest.split_at(end);
        let ys = sorted(&bin.iter().map(|(_, y)| *y).collect::<Vec<_>>());
        let xs: Vec<f64> = bin.iter().map(|(x, _)| *x).collect();
        quartiles.push(Quartiles {
            x: quantile(&xs, 0.5),
            lower: quantile(&ys, 0.25),
            median: quantile(&ys, 0.5),
            upper: quantile(&ys, 0.75),
        });
        rest = after;
    }
    quartiles
}

/// The rank of each value, from 1; equal values share the mean of their ranks.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        for row in equal {
            ranks[*row] = rank;
        }
        before += equal.len();
    }
    ranks
}

/// Spearman's correlation of two columns, from their ranks; None if one of them is constant.
pub(super) fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let deviations = a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean));
        deviations.sum()
    };
    let norms = (product(a, a) * product(b, b)).sqrt();
    (norms > 0.0).then(|| (product(a, b) / norms).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What numpy says of the same values.
    #[test]
    fn quantiles_are_interpolated() {
        let sorted = sorted(&[3.5, -1.0, 2.0, 2.0, 10.0, 7.25, 0.5]);
        assert_eq!(sorted, [-1.0, 0.5, 2.0, 2.0, 3.5, 7.25, 10.0]);
        let quantiles = [0.0, 0.005, 0.25, 0.5, 0.75, 0.995, 1.0].map(|q| quantile(&sorted, q));
        let expected = [-1.0, -0.955, 1.25, 2.0, 5.375, 9.9175, 10.0];
        for (quantile, expected) in quantiles.iter().zip(expected) {
            assert!((quantile - expected).abs() < 1e-12, "{quantiles:?}");
        }
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[4.0], 0.995), 4.0);
    }

    #[test]
    fn histograms_count_what_is_outside() {
        let axis = Axis {
            low: 0.0,
            high: 2.0,
            bins: 4,
        };
        let values = [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 9.0, -3.0];
        let expected = Histogram {
            counts: vec![1, 1, 1, 3],
            below: 1,
            above: 1,
        };
        assert_eq!(histogram(&values, &axis), expected);
    }

    #[test]
    fn a_density_has_a_row_for_each_bin_of_y() {
        let axis = |high, bins| Axis {
            low: 0.0,
            high,
            bins,
        };
        let xs = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 5.0];
        let ys = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let expected = Density {
            counts: vec![vec![1, 2], vec![1, 3]],
            outside: 1,
        };
        assert_eq!(density(&xs, &ys, &axis(2.0, 2), &axis(1.0, 2)), expected);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        let a = ranks(&[1.0, 2.0, 2.0, 4.0, 5.0, 5.0, 5.0, 9.0]);
        let b = ranks(&[3.0, 1.0, 4.0, 4.0, 9.0, 2.0, 6.0, 5.0]);
        assert_eq!(a, [1.0, 2.5, 2.5, 4.0, 6.0, 6.0, 6.0, 8.0]);
        assert_eq!(b, [3.0, 1.0, 4.5, 4.5, 8.0, 2.0, 7.0, 6.0]);
        let correlation = rank_correlation(&a, &b).unwrap();
        assert!((correlation - 0.561_899_705_951_670_8).abs() < 1e-12);
    }

    #[test]
    fn a_constant_has_no_rank_correlation() {
        assert_eq!(rank_correlation(&ranks(&[2.0, 2.0]), &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[1.0], &[1.0]), None);
        assert_eq!(rank_correlation(&[1.0, 2.0], &[2.0, 1.0]), Some(-1.0));
    }

    #[test]
    fn equal_x_are_in_one_bin() {
        let xs = [5.0, 1.0, 1.0, 2.0, 2.0, 1.0, 8.0, 9.0];
        let ys = [10.0, 1.0, 3.0, 7.0, 9.0, 5.0, 2.0, 4.0];
        let quartiles = |x, lower, median, upper| Quartiles {
            x,
            lower,
            median,
            upper,
        };
        let expected = [
            quartiles(1.0, 2.0, 3.0, 4.0),
            quartiles(2.0, 7.5, 8.0, 8.5),
            quartiles(8.0, 3.0, 4.0, 7.0),
        ];
        assert_eq!(binned_quartiles(&xs, &ys, 4)[..2], expected[..2]);
        assert_eq!(
            binned_quartiles(&xs, &ys, 3),
            [
                quartiles(1.0, 2.0, 3.0, 4.0),
                quartiles(2.0, 8.0, 9.0, 9.5),
                quartiles(8.5, 2.5, 3.0, 3.5),
            ]
        );
        assert_eq!(binned_quartiles(&[], &[], 0), []);
    }

    #[test]
    fn an_axis_leaves_out_far_outliers_only() {
        let mut values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let axis = Axis::of(&values, 10, false);
        assert_eq!((axis.low, axis.high), (0.0, 999.0));
        values[999] = 1e12;
        let axis = Axis::of(&values, 10, false);
        assert!(axis.low == 0.0 && axis.high < 1_000.0, "{axis:?}");
    }

    #[test]
    fn bins_of_whole_numbers_hold_as_many_each() {
        let values: Vec<f64> = (3..=25).map(f64::from).collect();
        let axis = Axis::of(&values, 10, true);
        assert_eq!((axis.low, axis.high, axis.bins), (2.5, 26.5, 8));
        let counts = histogram(&values, &axis).counts;
        assert_eq!(counts, [3, 3, 3, 3, 3, 3, 3, 2]);
    }

    #[test]
    fn an_axis_of_equal_values_has_a_length() {
        for value in [0.0, -3.0, 1e-300, 1e300] {
            let axis = Axis::of(&[value, value], 6, false);
            assert!(axis.low < value && value < axis.high, "{axis:?}");
        }
        let axis = Axis::of(&[7.0], 40, true);
        assert_eq!((axis.low, axis.high, axis.bins), (4.5, 9.5, 5));
    }
}
