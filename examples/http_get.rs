//! Fetches a page over a TCP stream with a stack of its own: `http_get http://10.77.0.2:8000/index.html`.
//!
//! In a lab: `$PLUMB_PEER python3 -m http.server 8000 &`, and then this.

use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;

use plumb_net::TcpStream;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), None) = (arguments.next(), arguments.next()) else {
        tell("usage: http_get http://HOST[:PORT][/PATH]");
        return ExitCode::FAILURE;
    };
    match get(&url) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(&format!("http_get: {url}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// Prints the page, and on standard error how the server answered; whether it had the page.
fn get(url: &str) -> io::Result<bool> {
    let rest = url.strip_prefix("http://").ok_or_else(|| io::Error::other("not http://…"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let place = if host.contains(':') { host.to_string() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(place)?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    tell(status.trim());
    let mut line = String::new();
    while answer.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let mut output = io::stdout().lock();
    io::copy(&mut answer, &mut output)?;
    output.flush()?;
    Ok(status.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2')))
}
