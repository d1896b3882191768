//! Outcomes for people and programs: text, JSON, and a folder with CSV, SVG and one HTML page.

use std::fmt::Write as _;
use std::path::Path;

use crate::outcome::{Metric, Outcome};

/// The outcome as a table.
pub fn text(outcome: &Outcome) -> String {
    let mut text = format!("{}: {}\n", outcome.experiment, outcome.title);
    let name = |metric: &Metric| format!("{}, {}", metric.item, metric.name);
    let width =
        outcome.metrics.iter().map(|metric| name(metric).chars().count()).max().unwrap_or(0);
    for metric in &outcome.metrics {
        let mark = match (metric.band, metric.pass) {
            (None, _) => ' ',
            (_, true) => '✓',
            (_, false) => '✗',
        };
        let band = metric.band.map_or_else(String::new, |band| band.to_string());
        let spread =
            metric.spread.map_or_else(String::new, |(low, high)| format!("  {low} … {high}"));
        let value = format!("{} {}", metric.value, metric.unit);
        let line = format!(
            "  {mark} {:<12} {:<width$} {value:>18}  {band}{spread}",
            metric.subject,
            name(metric)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for note in &outcome.notes {
        let _ = writeln!(text, "    {note}");
    }
    text
}

/// Metrics as lines.
pub fn csv(outcome: &Outcome) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text =
        String::from("experiment,mode,subject,item,metric,value,smallest,largest,unit,band,pass\n");
    for metric in &outcome.metrics {
        let fields = [
            outcome.experiment.into(),
            outcome.mode.into(),
            metric.subject.clone(),
            quoted(&metric.item),
            quoted(&metric.name),
            metric.value.to_string(),
            metric.spread.map_or_else(String::new, |(low, _)| low.to_string()),
            metric.spread.map_or_else(String::new, |(_, high)| high.to_string()),
            quoted(metric.unit),
            quoted(&metric.band.map_or_else(String::new, |band| band.to_string())),
            metric.pass.to_string(),
        ];
        let _ = writeln!(text, "{}", fields.join(","));
    }
    text
}

/// Writes `report.html`, and a CSV of metrics and CSV and SVG of every picture, into `folder`.
/// `command` is what made them.
///
/// # Errors
///
/// What the file system says, and of which file.
pub fn write(folder: &Path, outcomes: &[Outcome], command: &str) -> Result<(), String> {
    let put = |name: String, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for outcome in outcomes {
        let stem = format!("{}-{}", outcome.experiment, outcome.mode);
        put(format!("{stem}.csv"), &csv(outcome))?;
        put(format!("{stem}.json"), &serde_json::to_string_pretty(outcome).unwrap_or_default())?;
        for picture in &outcome.pictures {
            let svg = picture.svg(&caption(outcome, command))?;
            let name = file_name(&picture.name);
            put(format!("{stem}-{name}.svg"), &svg)?;
            put(format!("{stem}-{name}.csv"), &picture.csv())?;
        }
    }
    put("report.html".into(), &html(outcomes, command)?)
}

/// Letters and digits, and single dashes between them.
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

fn caption(outcome: &Outcome, command: &str) -> String {
    format!("{} ({}): {command}", outcome.experiment, outcome.mode)
}

const PAGE: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content='width=device-width'><title>Plumb: evaluation</title><style>\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .6rem;text-align:left;\
border-bottom:1px solid #8884}td.n{text-align:right;font-variant-numeric:tabular-nums}\
tr.missed{font-weight:bold}svg{max-width:100%;height:auto;margin:.5rem 0}code{font-size:.9em}\
</style>";

/// One page that needs no other file.
fn html(outcomes: &[Outcome], command: &str) -> Result<String, String> {
    let mut page = format!(
        "{PAGE}<h1>Plumb: evaluation</h1><p>Made by <code>{}</code>.</p>",
        escaped(command)
    );
    page += "<table><tr><th>experiment<th>mode<th>bands";
    for outcome in outcomes {
        let verdict = if outcome.pass { "held ✓" } else { "missed ✗" };
        let _ = write!(
            page,
            "<tr><td><a href='#{0}-{1}'>{0}</a><td>{1}<td>{verdict}",
            outcome.experiment, outcome.mode
        );
    }
    page += "</table>";
    for outcome in outcomes {
        let _ = write!(
            page,
            "<h2 id='{0}-{1}'>{2}</h2>",
            outcome.experiment,
            outcome.mode,
            escaped(outcome.title)
        );
        for picture in &outcome.pictures {
            page += &picture.svg(&caption(outcome, command))?;
        }
        page += "<table><tr><th>subject<th>what<th>metric<th>value<th>unit<th>runs<th>band<th>";
        for metric in &outcome.metrics {
            let mark = match (metric.band, metric.pass) {
                (None, _) => "",
                (_, true) => "✓",
                (_, false) => "✗",
            };
            let _ = write!(
                page,
                "<tr{}><td>{}<td>{}<td>{}<td class=n>{}<td>{}<td>{}<td>{}<td>{mark}",
                if metric.pass { "" } else { " class=missed" },
                escaped(&metric.subject),
                escaped(&metric.item),
                escaped(&metric.name),
                metric.value,
                metric.unit,
                metric.spread.map_or_else(String::new, |(low, high)| format!("{low} … {high}")),
                metric.band.map_or_else(String::new, |band| escaped(&band.to_string())),
            );
        }
        page += "</table>";
        for note in &outcome.notes {
            let _ = write!(page, "<p>{}</p>", escaped(note));
        }
    }
    page += "</html>\n";
    Ok(page)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Band, Part};

    fn outcome() -> Outcome {
        let mut outcome = Outcome::new("fig5a", "A <title>", "sim");
        let metric = Metric::new("plumb", "4 ms", "error", 0.5, "frames");
        let metrics = vec![metric.within(Some(Band::Within(0.25)))];
        outcome.add(Part { metrics, ..Part::default() });
        outcome.note("a note");
        outcome
    }

    #[test]
    fn a_missed_band_is_marked_wherever_it_is_shown() {
        let outcome = outcome();
        assert!(!outcome.pass);
        assert!(text(&outcome).contains("✗ plumb        4 ms, error"), "{}", text(&outcome));
        assert!(
            csv(&outcome).ends_with("0.5,,,\"frames\",\"± 0.25\",false\n"),
            "{}",
            csv(&outcome)
        );
        let page = html(&[outcome], "plumb <x>").unwrap();
        assert!(page.contains("missed ✗") && page.contains("A &lt;title&gt;"));
        assert!(!page.contains("src=") && !page.contains("<link"), "needs no other file");
    }

    #[test]
    fn files_have_names_without_surprises() {
        assert_eq!(file_name("htb, burst 1600-gaps"), "htb-burst-1600-gaps");
        assert_eq!(file_name("htb at 95 %"), "htb-at-95");
    }

    #[test]
    fn json_names_every_metric_with_band_and_verdict() {
        let json = serde_json::to_value(outcome()).unwrap();
        assert_eq!(json["metrics"][0]["band"]["within"], 0.25);
        assert_eq!(json["metrics"][0]["pass"], false);
        assert_eq!((json["pass"].clone(), json["mode"].clone()), (false.into(), "sim".into()));
    }
}
