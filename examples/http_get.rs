//! Fetches a page over a TCP stream of its own: `http_get 10.77.0.2:8000 /index.html`.
//!
//! In a lab: `$PLUMB_PEER python3 -m http.server 8000 &`, and then this.

use std::io::{Read, Write};
use std::process::ExitCode;

use plumb_net::TcpStream;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(host), path) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: http_get HOST:PORT [PATH]");
        return ExitCode::FAILURE;
    };
    match get(&host, path.as_deref().unwrap_or("/")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http_get: {error}");
            ExitCode::FAILURE
        }
    }
}

fn get(host: &str, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let head = String::from_utf8_lossy(&answer[..body]);
    eprintln!("{}", head.lines().next().unwrap_or("no answer"));
    std::io::stdout().write_all(&answer[body..])
}
