//! What connections that met trouble did last: written to a file, if somebody wants it.
//!
//! Every connection records what it does in a small ring ([`stack_tcp::Trace`]). One that ends before its
//! time, or whose time-out expires, appends its ring to `tcp-PID.trace` in the folder that
//! [`DUMP_VARIABLE`] names; `plumb trace --tcp` reads it.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use stack_tcp::{Connection, RECORD_BYTES, Record};

/// Names a folder for dumps; without it there are none.
pub const DUMP_VARIABLE: &str = "PLUMB_TCP_TRACE";

/// A process writes no more than this to its file.
const FILE_BYTES_MAX: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"PLUMBTC1";

/// Bytes before the records.
const HEAD_BYTES: usize = 96;

/// A connection that met trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// Our end.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
    /// Time-outs that expired.
    pub timeouts: u32,
    /// Bytes sent again.
    pub retransmitted_bytes: u64,
    /// Why it ended, if before its time.
    pub error: String,
    /// What it did last, oldest first.
    pub records: Vec<Record>,
}

impl Dump {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for end in [self.local, self.remote] {
            let address = match end {
                SocketAddr::V4(end) => end.ip().octets(),
                SocketAddr::V6(_) => [0; 4],
            };
            bytes.extend(address);
            bytes.extend(end.port().to_le_bytes());
        }
        bytes.extend((self.records.len() as u16).to_le_bytes());
        bytes.extend(self.timeouts.to_le_bytes());
        bytes.extend(self.retransmitted_bytes.to_le_bytes());
        let room = HEAD_BYTES - bytes.len() - 1;
        let error = &self.error.as_bytes()[..self.error.len().min(room)];
        bytes.push(error.len() as u8);
        bytes.extend(error);
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend(self.records.iter().flat_map(|record| record.to_bytes()));
        bytes
    }

    /// Reads the next dump of a file; `None` at its end.
    ///
    /// # Errors
    ///
    /// `InvalidData` for what is no dump, and what reading says.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD_BYTES];
        let mut done = 0;
        while done < HEAD_BYTES {
            match from.read(&mut head[done..])? {
                0 if done == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => done += bytes,
            }
        }
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a dump of TCP connections");
        if head[..8] != MAGIC {
            return Err(wrong());
        }
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let end = |at: usize| {
            let address = Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
            SocketAddr::new(address.into(), half(at + 4))
        };
        let word = |at: usize| {
            u64::from(half(at)) | u64::from(half(at + 2)) << 16 | u64::from(half(at + 4)) << 32
        };
        let length = usize::from(head[34]);
        let error = head.get(35..35 + length).ok_or_else(wrong)?;
        let mut records = Vec::new();
        for _ in 0..half(20) {
            let mut record = [0; RECORD_BYTES];
            from.read_exact(&mut record)?;
            records.push(Record::from_bytes(&record));
        }
        Ok(Some(Self {
            local: end(8),
            remote: end(14),
            timeouts: word(22) as u32,
            retransmitted_bytes: word(26),
            error: String::from_utf8_lossy(error).into_owned(),
            records,
        }))
    }
}

/// Where dumps go, if anywhere; asked for once.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os(DUMP_VARIABLE).map(PathBuf::from)).as_deref()
}

/// What a connection did, if somebody wants that written down.
pub(super) fn of(
    (local, remote): (SocketAddr, SocketAddr),
    connection: &Connection,
) -> Option<Dump> {
    folder()?;
    Some(Dump {
        local,
        remote,
        timeouts: connection.counts().timeouts as u32,
        retransmitted_bytes: connection.counts().retransmitted_bytes,
        error: connection.error().map(|error| error.to_string()).unwrap_or_default(),
        records: connection.trace().records().collect(),
    })
}

/// Appends to this process's file: not under a lock. That it cannot be written is nobody's concern.
pub(super) fn append(dump: &Dump) {
    let Some(folder) = folder() else { return };
    let file = folder.join(format!("tcp-{}.trace", std::process::id()));
    let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) else { return };
    if file.metadata().is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX) {
        return;
    }
    let _ = file.write_all(&dump.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_read_as_they_were_written_and_other_files_are_refused() {
        let record = Record { at_us: 5, event: 2, flags: 0x10, a: 7, b: 1448 };
        let dump = Dump {
            local: ([10, 0, 0, 1], 4000).into(),
            remote: ([10, 0, 0, 2], 80).into(),
            timeouts: 3,
            retransmitted_bytes: 1 << 33,
            error: "the peer does not answer".to_string(),
            records: vec![record; 5],
        };
        let empty = Dump { records: Vec::new(), error: String::new(), ..dump.clone() };
        let file = [dump.to_bytes(), empty.to_bytes()].concat();
        let mut rest = file.as_slice();
        assert_eq!(Dump::read(&mut rest).unwrap(), Some(dump));
        assert_eq!(Dump::read(&mut rest).unwrap(), Some(empty));
        assert_eq!(Dump::read(&mut rest).unwrap(), None);
        assert!(Dump::read(&mut &file[..100]).is_err(), "cut");
        assert!(Dump::read(&mut &[7; 200][..]).is_err());
    }
}
