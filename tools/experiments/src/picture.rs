//! Pictures: curves that can be told apart in grey and by the colour-blind, on light and dark ground.
//!
//! Colours are those of Okabe and Ito, which differ in lightness too; every second curve is dashed,
//! and every curve carries its name at its end. The document's own style sheet turns ink and ground
//! around where the reader prefers dark.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// An axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// Whether it is logarithmic.
    pub logarithmic: bool,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: &str) -> Self {
        Self { label: label.into(), logarithmic: false }
    }

    /// A logarithmic axis.
    pub fn logarithmic(label: &str) -> Self {
        Self { label: label.into(), logarithmic: true }
    }
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Part of its file's name.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Its axes.
    pub axes: [Axis; 2],
    /// Its curves.
    pub curves: Vec<Curve>,
}

const SIZE: (u32, u32) = (840, 420);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Okabe and Ito, darkest and lightest alternating.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x66, 0x66, 0x66),
];

/// Colours of the page, and what they become on dark ground.
const STYLE: &str = "<style>@media (prefers-color-scheme:dark){\
[fill='#FFFFFF']{fill:#161616}[fill='#222222']{fill:#e4e4e4}[stroke='#222222']{stroke:#e4e4e4}\
[stroke='#DDDDDD']{stroke:#3a3a3a}[stroke='#0072B2']{stroke:#4ba3dc}[fill='#0072B2']{fill:#4ba3dc}\
[stroke='#666666']{stroke:#aaaaaa}[fill='#666666']{fill:#aaaaaa}}</style>";

impl Picture {
    /// The picture as SVG, with `caption` below it.
    ///
    /// # Errors
    ///
    /// If it cannot be drawn: a range that is empty or not a number.
    pub fn svg(&self, caption: &str) -> Result<String, String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            self.draw(&area, caption).map_err(|error| error.to_string())?;
            area.present().map_err(|error| error.to_string())?;
        }
        // The style sheet goes where the drawing begins.
        let at = text.find('>').map_or(0, |at| at + 1);
        text.insert_str(at, STYLE);
        Ok(text)
    }

    /// The points as lines of `curve,x,y`.
    pub fn csv(&self) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let mut text =
            format!("curve,{},{}\n", quoted(&self.axes[0].label), quoted(&self.axes[1].label));
        for curve in &self.curves {
            for (x, y) in &curve.points {
                text += &format!("{},{x},{y}\n", quoted(&curve.name));
            }
        }
        text
    }

    fn range(&self, axis: usize) -> (f64, f64) {
        let values = self.curves.iter().flat_map(|curve| &curve.points);
        let values = values.map(|&(x, y)| if axis == 0 { x } else { y });
        let logarithmic = self.axes[axis].logarithmic;
        let (low, high) = values
            .filter(|value| value.is_finite() && (!logarithmic || *value > 0.0))
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        match (logarithmic, low <= high) {
            (_, false) => (if logarithmic { 0.1 } else { 0.0 }, 1.0),
            (true, _) => (low / 1.2, high * 1.2),
            // The axis of time begins where time does; the other one at nothing.
            (false, _) if axis == 0 => (low, if high > low { high } else { low + 1.0 }),
            (false, _) => (low.min(0.0), if high > 0.0 { high * 1.06 } else { 1.0 }),
        }
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
        caption: &str,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let ink = |size: u32| ("sans-serif", size).into_font().color(&INK);
        area.draw(&Text::new(self.title.clone(), (14, 10), ink(17)))?;
        area.draw(&Text::new(caption.to_string(), (14, SIZE.1 as i32 - 20), ink(11)))?;
        let (width, height) = (SIZE.0 - 150, SIZE.1 - 60);
        let inner = area.margin(34, 26, 6, 0).shrink((0, 0), (width, height - 4));
        let x = self.range(0);
        let y = self.range(1);
        // Axes of four kinds are four types of chart.
        macro_rules! chart {
            ($x:expr, $y:expr) => {{
                let mut chart = ChartBuilder::on(&inner)
                    .x_label_area_size(44)
                    .y_label_area_size(66)
                    .build_cartesian_2d($x, $y)?;
                chart
                    .configure_mesh()
                    .light_line_style(TRANSPARENT)
                    .bold_line_style(GRID)
                    .axis_style(INK)
                    .x_desc(self.axes[0].label.clone())
                    .y_desc(self.axes[1].label.clone())
                    .label_style(ink(12))
                    .axis_desc_style(ink(13))
                    .x_label_formatter(&|value| number(*value))
                    .y_label_formatter(&|value| number(*value))
                    .draw()?;
                let mut ends = Vec::new();
                for (index, curve) in self.curves.iter().enumerate() {
                    let style = COLOURS[index % COLOURS.len()].stroke_width(2);
                    let points = curve.points.iter().copied().filter(|(x, y)| {
                        x.is_finite()
                            && y.is_finite()
                            && !(self.axes[0].logarithmic && *x <= 0.0)
                            && !(self.axes[1].logarithmic && *y <= 0.0)
                    });
                    if index % 2 == 0 {
                        chart.draw_series(LineSeries::new(points.clone(), style))?;
                    } else {
                        chart.draw_series(DashedLineSeries::new(points.clone(), 6, 4, style))?;
                    }
                    if let Some(last) = points.last() {
                        ends.push((chart.backend_coord(&last), index));
                    }
                }
                ends
            }};
        }
        let ends = match (self.axes[0].logarithmic, self.axes[1].logarithmic) {
            (false, false) => chart!(x.0..x.1, y.0..y.1),
            (true, false) => chart!((x.0..x.1).log_scale(), y.0..y.1),
            (false, true) => chart!(x.0..x.1, (y.0..y.1).log_scale()),
            (true, true) => chart!((x.0..x.1).log_scale(), (y.0..y.1).log_scale()),
        };
        self.name_curves(area, ends)
    }

    /// Writes the curves' names beside their ends, moved apart where they would overlap.
    fn name_curves<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
        mut ends: Vec<((i32, i32), usize)>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        const LINE: i32 = 15;
        ends.sort_by_key(|((_, y), _)| *y);
        let lowest = SIZE.1 as i32 - 70;
        let mut places: Vec<i32> = ends.iter().map(|((_, y), _)| *y).collect();
        for i in 1..places.len() {
            places[i] = places[i].max(places[i - 1] + LINE);
        }
        for i in (0..places.len()).rev() {
            let limit = if i + 1 == places.len() { lowest } else { places[i + 1] - LINE };
            places[i] = places[i].min(limit);
        }
        for ((_, index), y) in ends.into_iter().zip(places) {
            let style = ("sans-serif", 12)
                .into_font()
                .color(&COLOURS[index % COLOURS.len()])
                .pos(Pos::new(HPos::Left, VPos::Center));
            let name =
                if self.curves.len() > 1 { self.curves[index].name.clone() } else { String::new() };
            area.draw(&Text::new(name, (SIZE.0 as i32 - 134, y), style))?;
        }
        Ok(())
    }
}

/// A number on an axis: no more digits than it needs.
fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 1e6 {
        format!("{:.3}M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.3}k", value / 1e3)
    } else {
        format!("{value:.4}")
    };
    let (digits, unit) = text.split_at(text.find(['M', 'k']).unwrap_or(text.len()));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if digits == "-0" { "0" } else { digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(logarithmic: bool) -> Picture {
        let curve = |name: &str, k: f64| Curve {
            name: name.into(),
            points: (1..50).map(|i| (f64::from(i), k * f64::from(i))).collect(),
        };
        let axis = |label: &str| Axis { label: label.into(), logarithmic };
        Picture {
            name: "p".into(),
            title: "A picture".into(),
            axes: [axis("time, s"), axis("rate, Mbit/s")],
            curves: vec![curve("one", 1.0), curve("two", 2.0)],
        }
    }

    #[test]
    fn a_picture_names_its_axes_with_units_its_curves_and_the_command_that_made_it() {
        for logarithmic in [false, true] {
            let svg = picture(logarithmic).svg("plumb experiment fig5a --sim").unwrap();
            for text in ["time, s", "rate, Mbit/s", "one", "two", "plumb experiment fig5a --sim"] {
                assert!(svg.contains(text), "{text}");
            }
            assert!(
                svg.contains("prefers-color-scheme:dark") && svg.trim_end().ends_with("</svg>")
            );
        }
    }

    #[test]
    fn curves_without_points_are_drawn_as_nothing() {
        let mut empty = picture(true);
        empty.curves[0].points.clear();
        empty.curves[1].points = vec![(0.0, f64::NAN)];
        assert!(empty.svg("").is_ok());
    }

    #[test]
    fn points_are_written_for_other_programs() {
        let mut small = picture(false);
        small.curves.truncate(1);
        small.curves[0].points.truncate(1);
        assert_eq!(small.csv(), "curve,\"time, s\",\"rate, Mbit/s\"\n\"one\",1,1\n");
    }

    #[test]
    fn numbers_have_no_more_digits_than_they_need() {
        let all = [0.0, 0.5, 100.0, 65_536.0, 1_000_000.0].map(number);
        assert_eq!(all, ["0", "0.5", "100", "65.536k", "1M"]);
    }
}
