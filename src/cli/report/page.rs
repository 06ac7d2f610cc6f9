//! What the page shows, and its template.

use std::collections::HashSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::charts::{self, ChartError};
use super::columns::{Column, Columns};
use super::cutoffs::Dropped;
use super::statistics::{self, Axis};
use super::text::{self, Excerpt};
use super::{ReportData, Scored, Shown};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("the page's template: {0}")]
    Template(#[from] minijinja::Error),
    #[error("a chart: {0}")]
    Chart(#[from] ChartError),
}

/// The report as one HTML document, which loads nothing and runs no script.
pub(super) fn page(data: &ReportData) -> Result<String, PageError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let whitespace = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(whitespace);
    environment.add_filter("count", text::count);
    environment.add_filter("number", text::number);
    environment.add_filter("percent", text::percent);
    environment.add_filter("correlation", text::correlation);
    // The name's ending is what turns escaping on.
    environment.add_template("page.html", include_str!("page.html"))?;
    let view = Serde(View::of(data)?);
    Ok(environment.get_template("page.html")?.render(view)?)
}

#[derive(Serialize)]
struct View<'a> {
    title: String,
    source: Excerpt,
    facts: Vec<(String, Excerpt)>,
    colours: Vec<charts::Colour>,
    rows: u64,
    scored: u64,
    without_score: u64,
    reasons: Vec<(String, u64)>,
    more_reasons: usize,
    /// None where no row has a score.
    statistics: Option<Statistics>,
    worst: Vec<Pair<'a>>,
    worst_by_ches: Vec<Pair<'a>>,
}

/// Reasons for no score that are named.
const REASONS: usize = 12;

impl<'a> View<'a> {
    fn of(data: &'a ReportData) -> Result<Self, PageError> {
        let columns = Columns::of(&data.scored);
        let statistics = (!data.scored.is_empty()).then(|| Statistics::of(data, &columns));
        let mut reasons = data.without_score.clone();
        reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        let named = reasons.iter().take(REASONS);
        let facts = data.facts.iter();
        let rows: HashSet<u64> = data.worst.iter().map(|pair| pair.row).collect();
        let pairs = |shown: &'a [Shown]| {
            let pairs = shown.iter().map(|pair| Pair::of(pair, &columns));
            pairs.collect::<Vec<_>>()
        };
        let mut worst_by_ches = pairs(&data.worst_by_ches);
        for pair in &mut worst_by_ches {
            pair.shown_above = rows.contains(&pair.row);
        }
        Ok(Self {
            title: text::passage(&data.title),
            source: text::excerpt(&data.source),
            facts: facts
                .map(|(name, value)| (text::passage(name), text::excerpt(value)))
                .collect(),
            colours: charts::colours().collect(),
            rows: data.rows,
            scored: data.scored.len() as u64,
            without_score: reasons.iter().map(|(_, rows)| rows).sum(),
            more_reasons: reasons.len().saturating_sub(REASONS),
            reasons: named
                .map(|(reason, rows)| (text::passage(reason), *rows))
                .collect(),
            statistics: statistics.transpose()?,
            worst: pairs(&data.worst),
            worst_by_ches,
        })
    }
}

#[derive(Serialize)]
struct Statistics {
    truncated: u64,
    /// Medians.
    prompt_tokens: f64,
    chosen_tokens: f64,
    rejected_tokens: f64,
    distributions: Vec<Distribution>,
    correlations: Vec<Correlations>,
    agreement: [DensityPlot; 2],
    by_length: Vec<DensityPlot>,
    cutoffs: Vec<Cutoff>,
}

impl Statistics {
    fn of(data: &ReportData, columns: &Columns) -> Result<Self, ChartError> {
        let scores = [
            &columns.ches_normalized,
            &columns.chosen_rate_per_token,
            &columns.ches,
        ];
        let lengths = [&columns.length_difference, &columns.chosen_tokens];
        let by_length = scores
            .into_iter()
            .flat_map(|score| lengths.map(|length| DensityPlot::of(length, score)));
        let distributions = columns.scores().into_iter().chain(lengths);
        let chosen_rate = &columns.chosen_rate_per_token;
        Ok(Self {
            truncated: data.scored.iter().filter(|row| row.truncated).count() as u64,
            prompt_tokens: columns.prompt_tokens.median(),
            chosen_tokens: columns.chosen_tokens.median(),
            rejected_tokens: columns.rejected_tokens.median(),
            distributions: distributions
                .map(Distribution::of)
                .collect::<Result<_, _>>()?,
            correlations: correlations(columns),
            agreement: [
                DensityPlot::of(&columns.ches_normalized, chosen_rate)?,
                DensityPlot::of(&columns.rejected_rate_per_token, chosen_rate)?,
            ],
            by_length: by_length.collect::<Result<_, _>>()?,
            cutoffs: cutoffs(data, columns),
        })
    }
}

/// A histogram and what it does not show.
#[derive(Serialize)]
struct Distribution {
    name: &'static str,
    meaning: &'static str,
    svg: String,
    lower: f64,
    median: f64,
    upper: f64,
    below: u64,
    above: u64,
}

impl Distribution {
    fn of(column: &Column) -> Result<Self, ChartError> {
        // Rice's rule, within what can be seen.
        let bins = (2.0 * (column.values.len() as f64).cbrt()) as usize;
        let axis = Axis::of(&column.sorted, bins.clamp(6, 48), column.whole);
        let histogram = statistics::histogram(&column.values, &axis);
        let median = column.median();
        Ok(Self {
            name: column.name,
            meaning: column.meaning,
            svg: charts::bars(&histogram, &axis, median)?,
            lower: statistics::quantile(&column.sorted, 0.25),
            median,
            upper: statistics::quantile(&column.sorted, 0.75),
            below: histogram.below,
            above: histogram.above,
        })
    }
}

/// A column's rank correlation with each column; None where one of the two is constant.
#[derive(Serialize)]
struct Correlations {
    name: &'static str,
    with: Vec<Option<f64>>,
}

fn correlations(columns: &Columns) -> Vec<Correlations> {
    let columns = || columns.scores().into_iter().chain(columns.lengths());
    columns()
        .map(|column| Correlations {
            name: column.name,
            with: columns().map(|other| column.correlation(other)).collect(),
        })
        .collect()
}

/// How a score goes along another column.
#[derive(Serialize)]
struct DensityPlot {
    x: &'static str,
    y: &'static str,
    svg: String,
    levels: Vec<charts::Level>,
    correlation: Option<f64>,
    outside: u64,
}

impl DensityPlot {
    fn of(x: &Column, y: &Column) -> Result<Self, ChartError> {
        // Few rows in small cells would be dust.
        let cells = (x.values.len() as f64).sqrt() as usize;
        let x_axis = Axis::of(&x.sorted, cells.clamp(12, 40), x.whole);
        let y_axis = Axis::of(&y.sorted, cells.clamp(8, 27), y.whole);
        let density = statistics::density(&x.values, &y.values, &x_axis, &y_axis);
        let bins = (x.values.len() / 25).min(24);
        let quartiles = statistics::binned_quartiles(&x.values, &y.values, bins);
        Ok(Self {
            x: x.name,
            y: y.name,
            svg: charts::cells(&density, &quartiles, (&x_axis, x.name), (&y_axis, y.name))?,
            levels: charts::levels(&density),
            correlation: x.correlation(y),
            outside: density.outside,
        })
    }
}

/// What dropping a share of the rows by either score does.
#[derive(Serialize)]
struct Cutoff {
    share: f64,
    by_ches: Option<Cut>,
    by_rate: Option<Cut>,
    /// Rows that both drop.
    both: u64,
}

#[derive(Serialize)]
struct Cut {
    threshold: f64,
    dropped: u64,
    /// Medians of the rows that are kept.
    chosen_tokens: f64,
    rejected_tokens: f64,
    sql: String,
}

/// Shares of the rows whose dropping is shown.
const SHARES: [f64; 5] = [0.01, 0.05, 0.1, 0.25, 0.5];

fn cutoffs(data: &ReportData, columns: &Columns) -> Vec<Cutoff> {
    let arguments = &data.arguments;
    let ches = Rule {
        column: &columns.ches_normalized,
        dropped: Dropped::Highest,
        sql: format!("ches_normalized({arguments})"),
    };
    let rate = Rule {
        column: &columns.chosen_rate_per_token,
        dropped: Dropped::Lowest,
        sql: format!("displacement({arguments})['chosen_rate_per_token']"),
    };
    let cutoff = |share| {
        let by_ches = ches.cut(share, columns);
        let by_rate = rate.cut(share, columns);
        let both = match (&by_ches, &by_rate) {
            (Some(by_ches), Some(by_rate)) => {
                let by_ches = ches.drops(by_ches.threshold);
                let by_rate = rate.drops(by_rate.threshold);
                by_ches.zip(by_rate).filter(|(a, b)| *a && *b).count() as u64
            }
            _ => 0,
        };
        Cutoff {
            share,
            by_ches,
            by_rate,
            both,
        }
    };
    SHARES.map(cutoff).into()
}

/// By which end of which score rows are dropped.
struct Rule<'a> {
    column: &'a Column,
    dropped: Dropped,
    sql: String,
}

impl Rule<'_> {
    fn cut(&self, share: f64, columns: &Columns) -> Option<Cut> {
        let threshold = self.dropped.threshold(&self.column.sorted, share)?;
        let median = |tokens: &Column| {
            let rows = tokens.values.iter().zip(self.drops(threshold));
            let kept: Vec<f64> = rows.filter(|(_, drops)| !drops).map(|(n, _)| *n).collect();
            statistics::quantile(&statistics::sorted(&kept), 0.5)
        };
        Some(Cut {
            threshold,
            dropped: self.drops(threshold).filter(|drops| *drops).count() as u64,
            chosen_tokens: median(&columns.chosen_tokens),
            rejected_tokens: median(&columns.rejected_tokens),
            sql: format!("{} {} {threshold:?}", self.sql, self.dropped.keeps()),
        })
    }

    /// Of each row, whether it is dropped.
    fn drops(&self, threshold: f64) -> impl Iterator<Item = bool> {
        let values = self.column.values.iter();
        values.map(move |value| self.dropped.drops(*value, threshold))
    }
}

#[derive(Serialize)]
struct Pair<'a> {
    row: u64,
    /// The beginning of its prompt.
    begins: String,
    prompt: Excerpt,
    chosen: Excerpt,
    rejected: Excerpt,
    scores: &'a Scored,
    /// The shares of the rows that score lower.
    ches_normalized_above: f64,
    chosen_rate_above: f64,
    gaining: Vec<TokenChange>,
    losing: Vec<TokenChange>,
    /// Whether the list before has it already.
    shown_above: bool,
}

impl<'a> Pair<'a> {
    fn of(pair: &'a Shown, columns: &Columns) -> Self {
        let changes = pair.gaining.iter().chain(&pair.losing);
        let largest = changes.fold(0.0f64, |largest, (_, change)| largest.max(change.abs()));
        let tokens = |changes: &[(String, f64)]| {
            let changes = changes.iter();
            let changes = changes.map(|(token, change)| TokenChange {
                token: text::token(token),
                change: *change,
                width: (change.abs() / largest.max(f64::MIN_POSITIVE) * 100.0).round(),
            });
            changes.collect()
        };
        let share_below = |column: &Column, value: f64| {
            let below = column.sorted.partition_point(|other| *other < value);
            below as f64 / column.sorted.len().max(1) as f64
        };
        let scores = &pair.scores;
        Self {
            row: pair.row,
            begins: text::line(&pair.prompt),
            prompt: text::excerpt(&pair.prompt),
            chosen: text::excerpt(&pair.chosen),
            rejected: text::excerpt(&pair.rejected),
            ches_normalized_above: share_below(&columns.ches_normalized, scores.ches_normalized),
            chosen_rate_above: share_below(
                &columns.chosen_rate_per_token,
                scores.chosen_rate_per_token,
            ),
            scores,
            gaining: tokens(&pair.gaining),
            losing: tokens(&pair.losing),
            shown_above: false,
        }
    }
}

#[derive(Serialize)]
struct TokenChange {
    token: String,
    change: f64,
    /// Of its bar, in percent of the largest of the pair.
    width: f64,
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let hostile = "</script><img src=x onerror=alert(1)>'\"&";
        let mut data = synthetic::report(30);
        data.title = hostile.to_owned();
        data.source = hostile.to_owned();
        data.arguments = hostile.to_owned();
        data.facts = vec![(hostile.to_owned(), hostile.to_owned())];
        data.without_score = vec![(hostile.to_owned(), 1)];
        for pair in data.worst.iter_mut().chain(&mut data.worst_by_ches) {
            pair.prompt = hostile.to_owned();
            pair.chosen = hostile.repeat(100);
            pair.rejected = hostile.to_owned();
            pair.gaining = vec![(hostile.to_owned(), 1.0)];
            pair.losing = vec![(hostile.to_owned(), -1.0)];
        }
        let page = page(&data).unwrap();
        assert!(page.contains("&lt;img src=x onerror="));
        for raw in ["<img", "<script", "</script", "onerror=alert(1)>", "'\"&\n"] {
            assert!(!page.contains(raw), "{raw}");
        }
    }

    #[test]
    fn nothing_is_loaded() {
        let page = page(&synthetic::report(300)).unwrap();
        for loading in ["src=\"", "@import", "url(", "<link", "<script", "<iframe"] {
            assert!(!page.contains(loading), "{loading}");
        }
        assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'"));
    }

    #[test]
    fn a_page_does_not_grow_with_its_rows() {
        for (rows, most) in [(1_000, 600_000), (100_000, 600_000)] {
            let page = page(&synthetic::report(rows)).unwrap();
            assert!(page.len() < most, "{rows} rows: {} bytes", page.len());
        }
    }

    #[test]
    fn a_pair_in_both_lists_has_its_texts_once() {
        let mut data = synthetic::report(50);
        data.worst.truncate(1);
        data.worst_by_ches.clone_from(&data.worst);
        let page = page(&data).unwrap();
        assert_eq!(page.matches("class=\"pair\"").count(), 1);
        let link = format!("href=\"#row-{}\"", data.worst[0].row);
        assert_eq!(page.matches(&link).count(), 1);
    }

    #[test]
    fn a_cut_is_given_in_sql() {
        let page = page(&synthetic::report(1_000)).unwrap();
        assert!(page.contains("WHERE ches_normalized(prompt, chosen, rejected) &lt;= -"));
        assert!(page.contains("-- drops 500 rows"));
    }

    #[test]
    fn there_is_a_page_without_scores() {
        let mut data = synthetic::report(0);
        let html = page(&data).unwrap();
        assert!(html.contains("No row has a score"));
        assert!(html.contains("the chosen response is empty"));
        data.rows = 0;
        data.without_score.clear();
        assert!(page(&data).is_ok());
    }

    #[test]
    fn there_is_a_page_of_awkward_scores() {
        let change = |rows: usize, change: fn(usize, &mut Scored)| {
            let mut data = synthetic::report(rows);
            for (row, scores) in data.scored.iter_mut().enumerate() {
                change(row, scores);
            }
            data
        };
        let awkward = [
            synthetic::report(1),
            synthetic::report(2),
            change(100, |_, scores| *scores = synthetic::scored(1)[0].clone()),
            change(100, |_, scores| {
                scores.ches_normalized = 0.0;
                scores.chosen_rate_per_token = 0.0;
            }),
            change(1_000, |row, scores| {
                scores.ches_normalized = if row % 2 == 0 { 1e308 } else { -1e308 };
                scores.ches = if row == 0 { 1e300 } else { 1e-300 };
                scores.chosen_rate_per_token = 5e-324 * row as f64;
            }),
            change(50, |_, scores| {
                scores.chosen_tokens = u32::MAX;
                scores.rejected_tokens = 0;
                scores.overlap = None;
            }),
        ];
        for data in awkward {
            let page = page(&data).unwrap();
            assert!(
                page.contains("<svg") && page.ends_with("</html>"),
                "{}",
                data.rows
            );
            assert!(!page.contains("NaN"), "{}", data.rows);
        }
    }
}
