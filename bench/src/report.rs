//! The results of a run: a table to read, JSON for programs, and pictures.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use plotters::prelude::*;
use serde::Serialize;

use crate::{
    costs::Cost,
    figures::{Row, Spread, Target, Unit},
};

/// All results of one run.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The machine, and its other load.
    pub(crate) machine: Machine,
    /// The rows of the table, by measure.
    pub(crate) rows: Vec<Row>,
    /// The curves over a size.
    pub(crate) curves: Vec<Curve>,
    /// Costs of single steps, for `make scale`.
    pub(crate) costs: Vec<Cost>,
    /// The measures that failed, with the reasons.
    pub(crate) failures: Vec<Failure>,
}

/// The machine of the run.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// Load averages over one minute, at the start of each measure.
    pub(crate) load: Vec<(u8, f64)>,
    /// Rounds of each measure.
    pub(crate) rounds: usize,
    /// The measured share of the full sizes.
    pub(crate) share: f64,
}

/// A figure at several sizes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Curve {
    /// The number of its measure.
    pub(crate) measure: u8,
    /// File name without extension, and name in the JSON.
    pub(crate) name: &'static str,
    /// The title.
    pub(crate) title: String,
    /// The name of the size.
    pub(crate) across: String,
    /// The name of the figure, in seconds.
    pub(crate) up: String,
    /// The lines with their points.
    pub(crate) lines: Vec<(String, Vec<(f64, Spread)>)>,
}

/// A measure that failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// The number of the measure.
    pub(crate) measure: u8,
    /// The reason.
    pub(crate) error: String,
}

impl Report {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "#",
            "measure",
            "median",
            "beside",
            "median",
            "ratio",
            "least – most",
            "target",
            "",
        ]);
        for row in &self.rows {
            let judged = row.ratio.unwrap_or(row.figure);
            let number = |figure: f64| {
                if row.ratio.is_some() {
                    times(figure)
                } else {
                    human(row.unit, figure)
                }
            };
            table.add_row([
                row.measure.to_string(),
                row.ours.clone(),
                human(row.unit, row.figure.median),
                row.beside.clone(),
                row.floor
                    .map(|floor| human(row.unit, floor.median))
                    .unwrap_or_default(),
                row.ratio
                    .map(|ratio| times(ratio.median))
                    .unwrap_or_default(),
                format!("{} – {}", number(judged.least), number(judged.most)),
                row.target
                    .map(|target| bound(target, number))
                    .unwrap_or_default(),
                row.reached
                    .map_or("", |reached| if reached { "✓" } else { "✗" })
                    .to_owned(),
            ]);
        }
        for column in [2, 4, 5, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = table.to_string();
        for curve in &self.curves {
            write!(
                text,
                "\n\n{} ({}; median, least – most)",
                curve.title, curve.across
            )
            .ok();
            for (line, points) in &curve.lines {
                for (
                    across,
                    Spread {
                        median,
                        least,
                        most,
                    },
                ) in points
                {
                    let [median, least, most] =
                        [median, least, most].map(|figure| human(Unit::Seconds, *figure));
                    write!(
                        text,
                        "\n  {line:<24} {across:>8}  {median:>10}  {least} – {most}"
                    )
                    .ok();
                }
            }
        }
        for failure in &self.failures {
            write!(
                text,
                "\n\nmeasure {} did not come to its end: {}",
                failure.measure, failure.error
            )
            .ok();
        }
        text
    }

    /// Writes `bench.json`, `ratios.svg` and a picture of each curve into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("bench.json"), serde_json::to_vec_pretty(self)?)?;
        self.draw_ratios(&folder.join("ratios.svg"))
            .context("drawing the ratios")?;
        for curve in &self.curves {
            curve
                .draw(&folder.join(format!("{}.svg", curve.name)))
                .with_context(|| format!("drawing {}", curve.name))?;
        }
        Ok(())
    }

    /// The share of its target that each ratio uses: below the line is better, whether the target
    /// is an upper or a lower limit.
    fn draw_ratios(&self, file: &Path) -> anyhow::Result<()> {
        let share = |row: &Row| {
            let judged = row.ratio.unwrap_or(row.figure);
            let target = row.target?;
            Some(match target {
                Target::AtMost(most) => (
                    judged.least / most,
                    judged.median / most,
                    judged.most / most,
                ),
                Target::AtLeast(least) => (
                    least / judged.most,
                    least / judged.median,
                    least / judged.least,
                ),
            })
        };
        let bars: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| Some((row, share(row)?)))
            .collect();
        if bars.is_empty() {
            return Ok(());
        }
        let height = 60 + 24 * u32::try_from(bars.len())?;
        let area = SVGBackend::new(file, (1_000, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let most = bars
            .iter()
            .map(|(_row, (_, _, most))| *most)
            .fold(1.2, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(
                "Share of the target that is taken up (below 1 is better)",
                ("sans-serif", 16),
            )
            .margin(8)
            .margin_left(420)
            .x_label_area_size(24)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..bars.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .draw()?;
        for (index, (row, (least, median, most))) in bars.iter().enumerate() {
            let low = (bars.len() - 1 - index) as f64;
            let color = if row.reached == Some(true) {
                RGBColor(60, 140, 90)
            } else {
                RGBColor(190, 80, 60)
            };
            let bar = [(0.0, low + 0.2), (*median, low + 0.8)];
            let whisker = vec![(*least, low + 0.5), (*most, low + 0.5)];
            chart.draw_series([Rectangle::new(bar, color.filled())])?;
            chart.draw_series([PathElement::new(whisker, BLACK)])?;
            let y = chart.backend_coord(&(0.0, low + 0.7)).1;
            area.draw_text(
                &format!("{}  {}", row.measure, row.ours),
                &("sans-serif", 12).into_text_style(&area),
                (8, y),
            )?;
        }
        chart.draw_series([PathElement::new(
            vec![(1.0, 0.0), (1.0, bars.len() as f64)],
            BLACK.stroke_width(2),
        )])?;
        area.present()?;
        Ok(())
    }
}

impl Curve {
    fn draw(&self, file: &Path) -> anyhow::Result<()> {
        let points = || self.lines.iter().flat_map(|(_name, points)| points);
        let ends = |figures: &mut dyn Iterator<Item = f64>| {
            Spread::of(figures).map(|Spread { least, most, .. }| (least * 0.7)..(most * 1.4))
        };
        let across = ends(&mut points().map(|(across, _spread)| *across)).context("no points")?;
        let up = ends(&mut points().flat_map(|(_across, spread)| [spread.least, spread.most]))
            .context("no points")?;
        let area = SVGBackend::new(file, (800, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(across.log_scale(), up.log_scale())?;
        let seconds = |figure: &f64| human(Unit::Seconds, *figure);
        chart
            .configure_mesh()
            .x_desc(&self.across)
            .y_desc(&self.up)
            .y_label_formatter(&seconds)
            .draw()?;
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let line = points
                .iter()
                .map(|(across, spread)| (*across, spread.median));
            let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color);
            chart
                .draw_series(LineSeries::new(line, color.stroke_width(2)))?
                .label(name)
                .legend(legend);
            let whisker = |(x, spread): &(f64, Spread)| {
                PathElement::new(vec![(*x, spread.least), (*x, spread.most)], color)
            };
            chart.draw_series(points.iter().map(whisker))?;
        }
        chart
            .configure_series_labels()
            .border_style(BLACK)
            .background_style(WHITE)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

fn bound(target: Target, number: impl Fn(f64) -> String) -> String {
    match target {
        Target::AtMost(most) => format!("≤ {}", number(most)),
        Target::AtLeast(least) => format!("≥ {}", number(least)),
    }
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

/// A figure in readable form.
fn human(unit: Unit, figure: f64) -> String {
    match unit {
        Unit::Seconds => format!("{:.3?}", Duration::from_secs_f64(figure.max(0.0))),
        Unit::PerSecond if figure >= 1e6 => format!("{:.2} M/s", figure / 1e6),
        Unit::PerSecond if figure >= 10_000.0 => format!("{:.1} k/s", figure / 1e3),
        Unit::PerSecond => format!("{figure:.0} /s"),
        Unit::Bytes => format!("{:.1} MiB", figure / f64::from(1 << 20)),
    }
}
