//! Control messages as C has them: header, data, padding to words.

use crate::notices::Notice;

/// Constants of Linux that libc does not know.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

/// Appends one.
pub(crate) fn append(out: &mut Vec<u8>, level: i32, kind: i32, data: &[u8]) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    out.extend((HEADER + data.len()).to_ne_bytes());
    out.extend([level, kind].map(i32::to_ne_bytes).concat());
    out.extend(data);
    out.resize(out.len().next_multiple_of(size_of::<usize>()), 0);
}

/// What an error queue's entry looks like.
pub(crate) fn notice(notice: &Notice) -> Vec<u8> {
    let mut out = Vec::new();
    let error = match *notice {
        // The bytes were copied into the send buffer, and Linux has a word for that.
        Notice::Released { first, last } => Error {
            number: 0,
            origin: SO_EE_ORIGIN_ZEROCOPY,
            code: SO_EE_CODE_ZEROCOPY_COPIED,
            info: first,
            data: last,
        },
        Notice::Reached { at_us, stage, key } => {
            // Three times, of which software fills the first.
            let time = [at_us / 1_000_000, at_us % 1_000_000 * 1_000, 0, 0, 0, 0];
            let time = time.map(i64::to_ne_bytes).concat();
            append(&mut out, libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &time);
            Error {
                number: libc::ENOMSG,
                origin: libc::SO_EE_ORIGIN_TIMESTAMPING,
                code: 0,
                info: stage,
                data: key,
            }
        }
    };
    append(&mut out, libc::SOL_IP, libc::IP_RECVERR, &error.bytes());
    out
}

/// `struct sock_extended_err`, and an address that nobody has.
struct Error {
    number: i32,
    origin: u8,
    code: u8,
    info: u32,
    data: u32,
}

impl Error {
    fn bytes(&self) -> Vec<u8> {
        let mut out = self.number.to_ne_bytes().to_vec();
        out.extend([self.origin, 0, self.code, 0]);
        out.extend([self.info, self.data].map(u32::to_ne_bytes).concat());
        out.extend([0; size_of::<libc::sockaddr_in>()]);
        out
    }
}
