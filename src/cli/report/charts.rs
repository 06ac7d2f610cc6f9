//! Charts, as SVG.
//!
//! Charts are drawn in the colours of the light theme; a style sheet gives them the others by
//! their colour, as `svg [fill="#335C81"]`, so that a picture is right without one too.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use serde::{Serialize, Serializer};

use super::statistics::{Axis, Density, Histogram, Quartiles};
use super::text;

pub(super) type ChartError = DrawingAreaErrorKind<std::io::Error>;

/// A colour of the charts in both themes. No two have the same `light`.
#[derive(Serialize)]
pub(super) struct Colour {
    /// The name of its CSS variable, without dashes.
    pub name: &'static str,
    #[serde(serialize_with = "hex")]
    pub light: RGBColor,
    #[serde(serialize_with = "hex")]
    pub dark: RGBColor,
}

fn hex<S: Serializer>(colour: &RGBColor, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!(
        "#{:02X}{:02X}{:02X}",
        colour.0, colour.1, colour.2
    ))
}

const fn colour(name: &'static str, light: u32, dark: u32) -> Colour {
    const fn rgb(hex: u32) -> RGBColor {
        RGBColor((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
    }
    Colour {
        name,
        light: rgb(light),
        dark: rgb(dark),
    }
}

const LABEL: Colour = colour("label", 0x57606b, 0xa3adb8);
const AXIS: Colour = colour("axis", 0x9aa4ae, 0x5c6670);
const GRID: Colour = colour("grid", 0xe4e8ec, 0x2a3139);
const BAR: Colour = colour("bar", 0x4a7fb5, 0x5b96d0);
/// Around lines, to part them from what they cross.
const HALO: Colour = colour("halo", 0xffffff, 0x171c22);
const ACCENT: Colour = colour("accent", 0xc4501b, 0xff9a5c);
/// From few rows to many.
const LEVELS: [Colour; 6] = [
    colour("level-1", 0xd9e7f4, 0x1a2d42),
    colour("level-2", 0xb4d0e9, 0x20466c),
    colour("level-3", 0x85b3da, 0x2a659b),
    colour("level-4", 0x5590c6, 0x3f88c8),
    colour("level-5", 0x2f6aa6, 0x76b3e6),
    colour("level-6", 0x15447a, 0xc2e1fb),
];

/// Every colour that a chart is drawn in.
pub(super) fn colours() -> impl Iterator<Item = Colour> {
    let others = [LABEL, AXIS, GRID, BAR, HALO, ACCENT];
    others.into_iter().chain(LEVELS)
}

/// Units of the drawing for a pixel at the size it is meant for: plotters places by whole units.
const UNIT: u32 = 4;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Scale, Scale>>;

/// Bars of a histogram, and a line where the median is.
pub(super) fn bars(histogram: &Histogram, axis: &Axis, median: f64) -> Result<String, ChartError> {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let rows = Axis {
        low: 0.0,
        high: most * 1.08,
        bins: 1,
    };
    svg((340, 180), |root| {
        let mut chart = axes(root, (axis, ""), (&rows, ""), (5, 3))?;
        let bars = histogram.counts.iter().enumerate();
        chart.draw_series(bars.filter(|(_, count)| **count > 0).map(|(bin, count)| {
            let corners = [(axis.edge(bin), 0.0), (axis.edge(bin + 1), *count as f64)];
            let mut bar = Rectangle::new(corners, BAR.light.filled());
            bar.set_margin(0, 0, UNIT / 8, UNIT / 8);
            bar
        }))?;
        let median = axis.clamp(median);
        chart.draw_series(haloed(&[(median, 0.0), (median, rows.high)], UNIT * 2))?;
        Ok(())
    })
}

/// Cells of a density, and the quartiles of y along x.
pub(super) fn cells(
    density: &Density,
    quartiles: &[Quartiles],
    x: (&Axis, &str),
    y: (&Axis, &str),
) -> Result<String, ChartError> {
    let levels = levels(density);
    let (x_axis, y_axis) = (x.0, y.0);
    svg((440, 300), |root| {
        let mut chart = axes(root, x, y, (6, 6))?;
        for (row, counts) in density.counts.iter().enumerate() {
            let mut column = 0;
            let cells = counts.chunk_by(|a, b| level(&levels, *a) == level(&levels, *b));
            for equal in cells {
                let end = column + equal.len();
                if let Some(level) = level(&levels, equal[0]) {
                    let corners = [
                        (x_axis.edge(column), y_axis.edge(row)),
                        (x_axis.edge(end), y_axis.edge(row + 1)),
                    ];
                    let colour = &levels[level].colour.light;
                    chart.draw_series([Rectangle::new(corners, colour.filled())])?;
                }
                column = end;
            }
        }
        let line = |value: fn(&Quartiles) -> f64, width| {
            let points = quartiles.iter();
            let points = points.map(|q| (q.x, value(q)));
            let inside = |(x, y): &(f64, f64)| x_axis.bin(*x).is_some() && y_axis.bin(*y).is_some();
            haloed(&points.filter(inside).collect::<Vec<_>>(), width)
        };
        // Fewer points are no trend.
        if quartiles.len() > 3 {
            chart.draw_series(line(|q| q.lower, UNIT))?;
            chart.draw_series(line(|q| q.upper, UNIT))?;
            chart.draw_series(line(|q| q.median, UNIT * 9 / 4))?;
        }
        Ok(())
    })
}

/// A line that is seen on light and on dark.
fn haloed(points: &[(f64, f64)], width: u32) -> [PathElement<(f64, f64)>; 2] {
    [
        PathElement::new(points, HALO.light.stroke_width(width + UNIT * 2)),
        PathElement::new(points, ACCENT.light.stroke_width(width)),
    ]
}

/// The rows of a cell from which on it has a colour.
#[derive(Serialize)]
pub(super) struct Level {
    pub from: u64,
    #[serde(flatten)]
    pub colour: Colour,
}

/// The levels of a density's cells, lowest first: steps of about the same factor.
pub(super) fn levels(density: &Density) -> Vec<Level> {
    let most = density.counts.iter().flatten().copied().max();
    let most = most.unwrap_or(0).max(1);
    let mut from: Vec<u64> = (0..LEVELS.len())
        .map(|step| {
            (most as f64)
                .powf(step as f64 / LEVELS.len() as f64)
                .round() as u64
        })
        .collect();
    from.dedup();
    let lightest = LEVELS.len() - from.len();
    let colours = LEVELS.into_iter().skip(lightest);
    from.into_iter()
        .zip(colours)
        .map(|(from, colour)| Level { from, colour })
        .collect()
}

fn level(levels: &[Level], count: u64) -> Option<usize> {
    levels.iter().rposition(|level| count >= level.from)
}

fn svg(
    (width, height): (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> Result<(), ChartError>,
) -> Result<String, ChartError> {
    let mut svg = String::new();
    {
        let root =
            SVGBackend::with_string(&mut svg, (width * UNIT, height * UNIT)).into_drawing_area();
        draw(&root)?;
        root.present()?;
    }
    // What SVG takes for granted is a third of the text.
    Ok(svg
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", ""))
}

/// A grid with axes, each with its title, if it is to have one, and about so many ticks.
fn axes<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, Shift>,
    (x_axis, x_title): (&Axis, &str),
    (y_axis, y_title): (&Axis, &str),
    (x_ticks, y_ticks): (usize, usize),
) -> Result<Chart<'a, 'b>, ChartError> {
    // The backend makes a font smaller than it is told to.
    let font = FontDesc::from(("sans-serif", UNIT as f64 * 11.0 * 1.24));
    let font = font.color(&LABEL.light);
    let room = |title: &str, size: u32| UNIT * if title.is_empty() { size } else { size + 14 };
    let mut chart = ChartBuilder::on(root)
        .margin(UNIT * 2)
        .margin_right(UNIT * 16)
        .x_label_area_size(room(x_title, 20))
        .y_label_area_size(room(y_title, 43))
        .build_cartesian_2d(Scale::new(*x_axis, x_ticks), Scale::new(*y_axis, y_ticks))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.light.stroke_width(UNIT / 2))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.light.stroke_width(UNIT))
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_desc(x_title)
        .y_desc(y_title)
        .set_all_tick_mark_size(UNIT * 3)
        .draw()?;
    Ok(chart)
}

/// An axis with ticks at round numbers. That of plotters takes ranges below 1e-16 for none.
struct Scale {
    axis: Axis,
    ticks: Vec<f64>,
}

impl Scale {
    /// With about so many ticks at most.
    fn new(axis: Axis, most: usize) -> Self {
        let least = (axis.high - axis.low) / most as f64;
        let power = 10f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = steps.into_iter().find(|step| *step >= least);
        let ticks = step.map_or_else(Vec::new, |step| {
            let first = (axis.low / step).ceil();
            (0..=most)
                .map(|place| (first + place as f64) * step)
                .take_while(|tick| *tick <= axis.high)
                .collect()
        });
        Self { axis, ticks }
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        let share = (value - self.axis.low) / (self.axis.high - self.axis.low);
        begin + (f64::from(end - begin) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.axis.low..self.axis.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(value: &f64) -> String {
        text::tick(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let ticks = |low, high| {
            let axis = Axis { low, high, bins: 1 };
            Scale::new(axis, 5).ticks
        };
        assert_eq!(ticks(-7.0, 83.0), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert!(ticks(1e16, 1e16).is_empty());
        assert!(ticks(-1e308, 1e308).is_empty());
        assert_eq!(ticks(0.0, 1e-300).len(), 6);
    }

    #[test]
    fn levels_begin_with_one_row() {
        let density = |most| Density {
            counts: vec![vec![0, 1, most]],
            outside: 0,
        };
        let levels = |most| -> Vec<u64> {
            let levels = levels(&density(most));
            levels.iter().map(|level| level.from).collect()
        };
        assert_eq!(levels(1), [1]);
        assert_eq!(levels(2), [1, 2]);
        assert_eq!(levels(1_000_000), [1, 10, 100, 1_000, 10_000, 100_000]);
    }

    /// A style sheet tells them apart by it.
    #[test]
    fn colours_differ_in_the_light_theme() {
        let mut light: Vec<_> = colours()
            .map(|c| (c.light.0, c.light.1, c.light.2))
            .collect();
        light.sort_unstable();
        light.dedup();
        assert_eq!(light.len(), colours().count());
    }
}
