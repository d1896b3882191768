//! What is on the screen, and what keys do to it.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Block, Paragraph, Row as TableRow, Table, TableState, Wrap};

use super::sample::{Report, Row};

/// What to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Flow,
    Sent,
    Fulfilment,
    Received,
    Drops,
    DriverTime,
}

impl Order {
    const ALL: [Self; 6] =
        [Self::Flow, Self::Sent, Self::Fulfilment, Self::Received, Self::Drops, Self::DriverTime];

    const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Sent => "sent",
            Self::Fulfilment => "fulfilment",
            Self::Received => "received",
            Self::Drops => "drops",
            Self::DriverTime => "driver time",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&order| order == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What a row is sorted by; most first, but flows and fulfilment least first.
    fn key(self, row: &Row) -> f64 {
        match self {
            Self::Flow => row.flow.parse().unwrap_or(0.0),
            Self::Sent => -row.sent_mbit,
            Self::Fulfilment => row.fulfilment().unwrap_or(f64::MAX),
            Self::Received => -row.received_mbit,
            Self::Drops => -row.drops_per_s,
            Self::DriverTime => -row.driver_cpu_pct,
        }
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Continue,
    Quit,
}

/// The screen.
pub struct Screen {
    report: Report,
    order: Order,
    reversed: bool,
    filter: String,
    typing: bool,
    paused: bool,
    detail: bool,
    selected: TableState,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            report: Report::default(),
            order: Order::Flow,
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            detail: false,
            selected: TableState::default().with_selected(0),
        }
    }

    /// Takes a new report, unless the screen is paused.
    pub fn show(&mut self, report: Report) {
        if !self.paused {
            self.report = report;
        }
    }

    /// Does what a key means.
    pub fn press(&mut self, key: KeyCode) -> Step {
        if self.typing {
            match key {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            return Step::Continue;
        }
        match key {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if !self.detail && self.filter.is_empty() => return Step::Quit,
            KeyCode::Esc => {
                self.detail = false;
                self.filter.clear();
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Enter => self.detail = !self.detail,
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected.select_previous(),
            _ => {}
        }
        Step::Continue
    }

    /// The rows that pass the filter, in order.
    fn rows(&self) -> Vec<&Row> {
        let wanted = |row: &&Row| {
            let all = format!("{} {} {} {}", row.flow, row.pid, row.command, row.ends);
            all.to_lowercase().contains(&self.filter.to_lowercase())
        };
        let mut rows: Vec<&Row> = self.report.flows.iter().filter(wanted).collect();
        rows.sort_by(|a, b| self.order.key(a).total_cmp(&self.order.key(b)));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let lines = self.report.links.len().max(1) as u16;
        let pane = if self.detail { Constraint::Length(10) } else { Constraint::Length(0) };
        let [links, flows, detail, help] = Layout::vertical([
            Constraint::Length(lines),
            Constraint::Min(3),
            pane,
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_links(frame, links);
        let rows: Vec<Row> = self.rows().into_iter().cloned().collect();
        if let Some(at) = self.selected.selected() {
            self.selected.select(Some(at.min(rows.len().saturating_sub(1))));
        }
        let table = Table::new(rows.iter().map(table_row), WIDTHS)
            .header(TableRow::new(HEADINGS).style(Style::new().add_modifier(Modifier::BOLD)))
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, flows, &mut self.selected);
        if self.detail
            && let Some(row) = self.selected.selected().and_then(|at| rows.get(at))
        {
            let block = Block::bordered().title(format!(" flow {} ", row.flow));
            let text = Paragraph::new(details(row)).block(block).wrap(Wrap { trim: false });
            frame.render_widget(text, detail);
        }
        frame.render_widget(TextLine::from(self.help()), help);
    }

    fn draw_links(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<TextLine<'_>> =
            self.report.links.iter().map(|link| TextLine::from(link_text(link))).collect();
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn help(&self) -> String {
        if self.typing {
            return format!("filter: {}_   Enter keeps it, Esc drops it", self.filter);
        }
        let mut text = format!(
            "sorted by {}{}",
            self.order.name(),
            if self.reversed { ", reversed" } else { "" }
        );
        if !self.filter.is_empty() {
            let _ = write!(text, "; only `{}`", self.filter);
        }
        if self.paused {
            text += "; PAUSED";
        }
        text + "   q quit  s sort  r reverse  / filter  p pause  Enter detail"
    }
}

const HEADINGS: [&str; 15] = [
    "FLOW", "PID", "COMMAND", "UID", "ENDS", "CONTRACT", "ACHIEVED", "SENT", "SLACK", "MISSED",
    "WIRE%", "RECEIVED", "BACKLOG", "DROPS/s", "CPU%",
];

const WIDTHS: [Constraint; 15] = [
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(12),
    Constraint::Length(5),
    Constraint::Min(20),
    Constraint::Length(14),
    Constraint::Length(12),
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(6),
    Constraint::Length(5),
    Constraint::Length(8),
    Constraint::Length(7),
    Constraint::Length(8),
    Constraint::Length(5),
];

/// Cells of a flow, in the order of the headings; bandwidths in Mbit/s.
fn cells(row: &Row) -> [String; 15] {
    let known = |text: String| if row.visible { text } else { "-".into() };
    [
        row.flow.clone(),
        row.pid.to_string(),
        row.command.clone(),
        row.uid.to_string(),
        row.ends.clone(),
        row.contract.clone(),
        known(bar(row.fulfilment(), 10)),
        known(format!("{:.2}", row.sent_mbit)),
        known(format!("{:.2}", row.slack_mbit)),
        known(row.periods_missed.to_string()),
        known(format!("{:.1}", row.wire_pct)),
        known(format!("{:.2}", row.received_mbit)),
        known(row.backlog.to_string()),
        known(format!("{:.0}", row.drops_per_s)),
        known(format!("{:.1}", row.driver_cpu_pct)),
    ]
}

fn table_row(row: &Row) -> TableRow<'static> {
    TableRow::new(cells(row))
}

/// A bar of `width` that is full when the promise is kept, and marked when there was more.
fn bar(fulfilment: Option<f64>, width: usize) -> String {
    let Some(fulfilment) = fulfilment else { return String::new() };
    let full = ((fulfilment * width as f64).round() as usize).min(width);
    let beyond = if fulfilment > 1.05 { "+" } else { " " };
    format!("{}{}{beyond}", "█".repeat(full), "░".repeat(width - full))
}

fn link_text(link: &super::sample::Line) -> String {
    let used = link.used_pct.map_or_else(|| "?".into(), |used| format!("{used:.1}"));
    format!(
        "{}: {} Mbit/s, {used} % used, {:.1} % promised; driver {:.1} % of a processor; stood still {:.1} ms",
        link.name, link.rate_mbit, link.promised_pct, link.driver_cpu_pct, link.stall_ms
    )
}

/// Everything there is to say about a flow.
fn details(row: &Row) -> String {
    let mut text = format!(
        "{} ({}), user {}\n{} on {}\ncontract {}: {:.3} Mbit/s promised, {:.3} sent, {:.3} of it on slack, {} periods missed\n\
         received {:.3} Mbit/s, {} frames waiting\nbilled {:.2} % of the wire, {:.2} % of a processor; {} frames sent, {} received\n",
        row.command,
        row.pid,
        row.uid,
        row.ends,
        row.link,
        row.contract,
        row.promised_mbit,
        row.sent_mbit,
        row.slack_mbit,
        row.periods_missed,
        row.received_mbit,
        row.backlog,
        row.wire_pct,
        row.driver_cpu_pct,
        row.sent_frames,
        row.received_frames,
    );
    for (reason, count) in &row.drops {
        let _ = writeln!(text, "dropped {count}: {}", reason.meaning());
    }
    text
}

/// The report as plain text.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for link in &report.links {
        let _ = writeln!(text, "{}", link_text(link));
    }
    let rows: Vec<[String; 15]> = report.flows.iter().map(cells).collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        longest.max(HEADINGS[column].len())
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |cells: &[String; 15]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_string()
    };
    let _ = writeln!(text, "{}", line(&HEADINGS.map(String::from)));
    for (cells, row) in rows.iter().zip(&report.flows) {
        let _ = writeln!(text, "{}", line(cells));
        for (reason, count) in &row.drops {
            let _ = writeln!(text, "          dropped {count} {reason} ({})", reason.meaning());
        }
    }
    text
}

#[cfg(test)]
mod tests;
