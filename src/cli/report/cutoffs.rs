//! Where to cut a score so that a share of the rows is dropped.

/// Which end of a score is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Dropped {
    Highest,
    Lowest,
}

impl Dropped {
    /// A threshold that drops at most this share of the values (in ascending order), and splits no
    /// equal ones. None where that drops nothing.
    pub(super) fn threshold(self, sorted: &[f64], share: f64) -> Option<f64> {
        let drop = (sorted.len() as f64 * share) as usize;
        match self {
            Self::Highest => {
                let kept = *sorted.get(sorted.len().checked_sub(drop + 1)?)?;
                let next = *sorted.get(sorted.partition_point(|v| *v <= kept))?;
                Some(short_between(kept, next).unwrap_or(kept))
            }
            Self::Lowest => {
                let kept = *sorted.get(drop)?;
                let before = sorted.partition_point(|v| *v < kept).checked_sub(1)?;
                Some(short_between(sorted[before], kept).unwrap_or(kept))
            }
        }
    }

    /// Whether a value is dropped.
    pub(super) fn drops(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Highest => value > threshold,
            Self::Lowest => value < threshold,
        }
    }

    /// The SQL comparison that keeps a row.
    pub(super) fn keeps(self) -> &'static str {
        match self {
            Self::Highest => "<=",
            Self::Lowest => ">=",
        }
    }
}

/// The number of fewest digits between two others, near their middle: a row at the threshold
/// stays on its side though its score is rounded differently the next time.
fn short_between(below: f64, above: f64) -> Option<f64> {
    let middle = below / 2.0 + above / 2.0;
    (1..=16)
        .filter_map(|digits| format!("{middle:.digits$e}").parse().ok())
        .find(|short| below < *short && *short < above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_lies_between_what_is_kept_and_dropped() {
        let sorted: Vec<f64> = (0..10).map(|n| f64::from(n) + 0.123_456).collect();
        for (dropped, share, rows) in [
            (Dropped::Highest, 0.1, 1),
            (Dropped::Highest, 0.25, 2),
            (Dropped::Lowest, 0.1, 1),
            (Dropped::Lowest, 0.5, 5),
        ] {
            let threshold = dropped.threshold(&sorted, share).unwrap();
            let drops = sorted.iter().filter(|v| dropped.drops(**v, threshold));
            assert_eq!(drops.count(), rows);
            assert!(!sorted.contains(&threshold));
        }
    }

    #[test]
    fn a_threshold_is_short() {
        let sorted = [0.111_111, 0.222_222, 0.333_333, 0.444_444];
        assert_eq!(Dropped::Highest.threshold(&sorted, 0.25), Some(0.39));
        assert_eq!(Dropped::Lowest.threshold(&sorted, 0.25), Some(0.17));
    }

    #[test]
    fn equal_scores_stay_together() {
        let sorted = [1.0, 1.0, 1.0, 2.0];
        assert_eq!(Dropped::Lowest.threshold(&sorted, 0.5), None);
        assert_eq!(Dropped::Highest.threshold(&sorted, 0.5), Some(1.5));
        let next = 1.0f64.next_up();
        assert_eq!(Dropped::Highest.threshold(&[1.0, next], 0.5), Some(1.0));
        assert_eq!(Dropped::Lowest.threshold(&[1.0, next], 0.5), Some(next));
    }

    #[test]
    fn too_few_rows_have_no_threshold() {
        for dropped in [Dropped::Highest, Dropped::Lowest] {
            assert_eq!(dropped.threshold(&[], 0.5), None);
            assert_eq!(dropped.threshold(&[1.0], 0.5), None);
            assert_eq!(dropped.threshold(&[1.0, 2.0], 0.01), None);
        }
    }
}
