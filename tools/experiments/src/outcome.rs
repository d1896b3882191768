//! What an experiment found: metrics with the bands they must lie in, notes, pictures.

use serde::Serialize;

use crate::picture::Picture;

/// What a metric must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// No further from zero than this.
    Within(f64),
}

impl Band {
    /// Whether `value` lies in it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Within(limit) => value.abs() <= limit,
        }
    }

    /// The band of a machine that does other things too: `factor` times what may be at most, and the
    /// `factor`th part of what must be at least.
    #[must_use]
    pub fn widened(self, factor: f64) -> Self {
        match self {
            Self::AtMost(limit) => Self::AtMost(limit * factor),
            Self::Within(limit) => Self::Within(limit * factor),
            Self::AtLeast(limit) => Self::AtLeast(limit / factor),
        }
    }
}

impl std::fmt::Display for Band {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Within(limit) => write!(f, "± {limit}"),
        }
    }
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Who was measured: `plumb`, `htb`, `kernel`, or the policy of a simulation.
    pub subject: String,
    /// On what: the line, the flow.
    pub item: String,
    /// What was measured.
    pub name: String,
    /// The figure; the median of several runs.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Smallest and largest of several runs.
    pub spread: Option<(f64, f64)>,
    /// What it must be.
    pub band: Option<Band>,
    /// Whether it is.
    pub pass: bool,
}

impl Metric {
    /// A figure that must be nothing in particular.
    pub fn new(subject: &str, item: &str, name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            subject: subject.into(),
            item: item.into(),
            name: name.into(),
            value: rounded(value),
            unit,
            spread: None,
            band: None,
            pass: true,
        }
    }

    /// The same figure, which must lie in `band`, if there is one.
    #[must_use]
    pub fn within(self, band: Option<Band>) -> Self {
        // What cannot be measured does not pass.
        let pass = band.is_none_or(|band| self.value.is_finite() && band.holds(self.value));
        Self { band, pass, ..self }
    }

    fn key(&self) -> (&str, &str, &str) {
        (&self.subject, &self.item, &self.name)
    }
}

/// Six significant digits: more would say nothing, and would differ from machine to machine.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(5 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// What one experiment found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name.
    pub experiment: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// `sim` or `live`.
    pub mode: &'static str,
    /// Whether it is complete, every metric lies in its band, and there is a band at all.
    pub pass: bool,
    /// Whether something is missing because the run was interrupted or failed.
    pub incomplete: bool,
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// How it was measured, and what was left out and why.
    pub notes: Vec<String>,
    /// Pictures.
    #[serde(skip)]
    pub pictures: Vec<Picture>,
}

impl Outcome {
    /// An outcome with nothing in it yet.
    pub const fn new(experiment: &'static str, title: &'static str, mode: &'static str) -> Self {
        Self {
            experiment,
            title,
            mode,
            pass: false,
            incomplete: false,
            metrics: Vec::new(),
            notes: Vec::new(),
            pictures: Vec::new(),
        }
    }

    /// Adds what was found in one part.
    pub fn add(&mut self, part: Part) {
        self.metrics.extend(part.metrics);
        self.pictures.extend(part.pictures);
        self.judge();
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Judges again after metrics were changed.
    pub fn judge(&mut self) {
        self.pass = !self.incomplete
            && self.metrics.iter().any(|metric| metric.band.is_some())
            && self.metrics.iter().all(|metric| metric.pass);
    }

    /// The outcome of several runs: medians, smallest and largest values; pictures and notes of all,
    /// of the last one that has them. It fails if one of the runs was not complete.
    ///
    /// # Panics
    ///
    /// If there was no run.
    #[must_use]
    pub fn of_runs(mut runs: Vec<Self>) -> Self {
        // The most complete run says what there is.
        let at = (0..runs.len()).max_by_key(|&at| (runs[at].metrics.len(), at));
        let mut all = runs.remove(at.expect("at least one run"));
        for metric in &mut all.metrics {
            let mut values: Vec<f64> = runs
                .iter()
                .filter_map(|run| run.metrics.iter().find(|other| other.key() == metric.key()))
                .map(|other| other.value)
                .chain([metric.value])
                .collect();
            values.sort_unstable_by(f64::total_cmp);
            if values.len() > 1 {
                metric.spread = Some((values[0], values[values.len() - 1]));
                let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
                let median = f64::midpoint(values[low], values[high]);
                *metric = Metric { value: median, ..metric.clone() }.within(metric.band);
            }
        }
        for run in runs {
            all.incomplete |= run.incomplete;
            for note in run.notes {
                if !all.notes.contains(&note) {
                    all.notes.push(note);
                }
            }
        }
        all.judge();
        all
    }

    /// Says that the run was not completed, and why.
    pub fn interrupt(&mut self, why: &str) {
        self.note(format!("Not complete: {why}."));
        self.incomplete = true;
        self.judge();
    }

    /// Widens every band, as [`Band::widened`].
    pub fn widen(&mut self, factor: f64) {
        for metric in &mut self.metrics {
            *metric = metric.clone().within(metric.band.map(|band| band.widened(factor)));
        }
        self.judge();
    }

    /// Those that do not lie in their bands.
    pub fn missed(&self) -> impl Iterator<Item = &Metric> {
        self.metrics.iter().filter(|metric| !metric.pass)
    }
}

/// A part of an outcome: one subject, or one line.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// Pictures.
    pub pictures: Vec<Picture>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(value: f64) -> Outcome {
        let mut outcome = Outcome::new("x", "an experiment", "sim");
        let metric = Metric::new("plumb", "100 Mbit/s", "error", value, "%");
        outcome
            .add(Part { metrics: vec![metric.within(Some(Band::AtMost(2.0)))], ..Part::default() });
        outcome
    }

    #[test]
    fn an_outcome_passes_if_every_metric_does_and_there_is_one() {
        assert!(outcome(2.0).pass && !outcome(2.1).pass);
        assert!(!outcome(f64::NAN).pass);
        let mut empty = Outcome::new("x", "nothing", "sim");
        empty.judge();
        assert!(!empty.pass);
    }

    #[test]
    fn several_runs_are_judged_by_their_median() {
        let all = Outcome::of_runs([9.0, 1.0, 1.5].map(outcome).to_vec());
        assert_eq!((all.metrics[0].value, all.metrics[0].spread), (1.5, Some((1.0, 9.0))));
        assert!(all.pass);
        assert!(!Outcome::of_runs([9.0, 1.0, 3.0].map(outcome).to_vec()).pass);
        let even = Outcome::of_runs([1.0, 3.5].map(outcome).to_vec());
        assert_eq!((even.metrics[0].value, even.pass), (2.25, false));
    }

    #[test]
    fn an_interrupted_run_takes_nothing_away_from_complete_ones_and_does_not_pass() {
        let mut cut = Outcome::new("x", "an experiment", "sim");
        cut.interrupt("the user lost patience");
        let all = Outcome::of_runs(vec![outcome(1.0), cut]);
        assert_eq!((all.metrics.len(), all.pass), (1, false));
        assert!(all.notes[0].contains("patience"));
    }

    #[test]
    fn widened_bands_allow_more_and_never_less() {
        assert_eq!(Band::AtMost(2.0).widened(3.0), Band::AtMost(6.0));
        assert_eq!(Band::AtLeast(99.5).widened(4.0), Band::AtLeast(24.875));
    }
}
