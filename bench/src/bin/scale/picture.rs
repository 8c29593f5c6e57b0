//! The picture of the curves. Nothing is computed here.

use std::path::Path;

use plotters::prelude::*;

use crate::{Computed, MACHINES, SIZES, Scaling, table::seconds};

/// The range of times that is drawn, in seconds.
const TIMES: std::ops::Range<f64> = 0.0001..20_000.0;

/// A figure of a fleet, in seconds.
type Figure = fn(&Computed) -> f64;

/// Draws all curves into an SVG file.
pub(crate) fn draw(result: &Scaling, file: &Path) -> anyhow::Result<()> {
    let area = SVGBackend::new(file, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = SIZES.iter().copied().max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Until all replicas have it, in a tree of subscribers",
            ("sans-serif", 16),
        )
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d((8.0..most * 1.2).log_scale(), TIMES.log_scale())?;
    let time = |figure: &f64| seconds(*figure);
    chart
        .configure_mesh()
        .x_desc("replicas")
        .y_desc("time")
        .y_label_formatter(&time)
        .draw()?;
    let mut color = 0;
    let kinds: [(&str, Figure); 2] = [
        ("a change", |computed| computed.change),
        ("restart of everything", |computed| computed.restart),
    ];
    for (kind, of) in kinds {
        for machines in MACHINES {
            let style = Palette99::pick(color).to_rgba();
            color += 1;
            let fleets = result.fleets.iter();
            let points = fleets.filter(|computed| computed.fleet.machines == machines);
            let points = points.map(|computed| (computed.fleet.replicas as f64, of(computed)));
            chart
                .draw_series(LineSeries::new(points, style.stroke_width(2)))?
                .label(format!("{kind}, {machines} machines"))
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
        }
    }
    for transport in crate::TRANSPORTS {
        let style = Palette99::pick(color).to_rgba();
        color += 1;
        let measured = || {
            let points = result.measured.iter();
            points.filter(move |point| point.transport == transport)
        };
        let circles =
            measured().map(|point| Circle::new((point.replicas, point.measured), 4, style));
        chart
            .draw_series(circles)?
            .label(format!("measured on one machine, {transport}"))
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, style));
        let line = measured().map(|point| (point.replicas, point.computed));
        chart.draw_series(LineSeries::new(line, style))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}
