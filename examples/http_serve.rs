//! Serves the files of a folder: `http_serve 0.0.0.0:8080 FOLDER`.
//!
//! In a lab: this, and then `$PLUMB_PEER curl http://10.77.0.1:8080/Cargo.toml`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use plumb_net::{TcpListener, TcpStream};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(local), Some(folder)) = (arguments.next(), arguments.next()) else {
        tell("usage: http_serve ADDRESS:PORT FOLDER");
        return ExitCode::FAILURE;
    };
    match serve(&local, &PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("http_serve: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever reads standard error; serving does not depend on it.
fn tell(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

fn serve(local: &str, folder: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(local)?;
    tell(&format!("serving {} at http://{}", folder.display(), listener.local_addr()?));
    for stream in listener.incoming() {
        let (stream, folder) = (stream?, folder.to_path_buf());
        thread::spawn(move || {
            if let Err(error) = answer(&stream, &folder) {
                tell(&format!("http_serve: {error}"));
            }
        });
    }
    Ok(())
}

/// Reads one request and answers it.
fn answer(stream: &TcpStream, folder: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the head says nothing that matters here.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = request.split(' ');
    let (method, path) = (words.next(), words.next());
    let mut out = stream;
    let file = match (method, path.and_then(|path| inside(folder, path))) {
        (Some("GET"), Some(path)) => File::open(path),
        (Some("GET"), None) => Err(io::ErrorKind::PermissionDenied.into()),
        _ => return write!(out, "HTTP/1.0 405 Method Not Allowed\r\n\r\n"),
    };
    match file.and_then(|file| Ok((file.metadata()?, file))) {
        Ok((facts, file)) if facts.is_file() => {
            write!(out, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", facts.len())?;
            // From the file to where it is sent from.
            while stream.send_from(&file, usize::MAX)? > 0 {}
            Ok(())
        }
        _ => write!(out, "HTTP/1.0 404 Not Found\r\n\r\n"),
    }
}

/// The file that a path of a request names, if it does not lead out of the folder.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let below = Path::new(path.trim_start_matches('/'));
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| folder.join(below))
}
