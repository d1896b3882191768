//! `plumb top`: flows as they run, what they were promised and what they get.
//!
//! Everything shown is read from the counters that the driver keeps anyway, by way of the flow manager;
//! the driver does not notice.

mod sample;
mod screen;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use plumb_net::Host;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::cli;
use crate::output::{self, say};
use crate::signals::Asked;
use sample::{Report, Snapshot};
use screen::{Screen, Step};

/// Shows flows until the user has seen enough, or once.
pub fn run(arguments: &cli::Top) -> Result<ExitCode> {
    let host = Host::connect(&arguments.socket.socket)?;
    if arguments.json || arguments.once || !std::io::stdout().is_terminal() {
        return once(&host, arguments);
    }
    let asked = Asked::listen()?;
    let mut terminal = ratatui::try_init()?;
    let result = live(&host, arguments, &asked, &mut terminal);
    let restored = ratatui::try_restore();
    result?;
    restored?;
    Ok(ExitCode::SUCCESS)
}

fn once(host: &Host, arguments: &cli::Top) -> Result<ExitCode> {
    let before = Snapshot::take(host)?;
    std::thread::sleep(arguments.interval);
    let report = Report::between(&before, &Snapshot::take(host)?, sample::command);
    if arguments.json {
        say!("{}", serde_json::to_string(&report)?)?;
    } else {
        output::bytes(screen::text(&report).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn live(
    host: &Host,
    arguments: &cli::Top,
    asked: &Asked,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<()> {
    let mut before = Snapshot::take(host)?;
    let mut screen = Screen::new();
    let mut due = Instant::now() + Duration::from_millis(200).min(arguments.interval);
    while !asked.yet() {
        terminal.draw(|frame| screen.draw(frame))?;
        // A signal ends the wait too, and is looked at above.
        let wait = due.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
        if event::poll(wait).unwrap_or(false)
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || screen.press(key.code) == Step::Quit {
                return Ok(());
            }
        }
        if Instant::now() >= due {
            due = Instant::now() + arguments.interval;
            let now = Snapshot::take(host)?;
            screen.show(Report::between(&before, &now, sample::command));
            before = now;
        }
    }
    Ok(())
}
