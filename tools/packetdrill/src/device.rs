//! What a script told packetdrill's device: whether it cuts segments.

use std::ffi::c_char;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GGSO: u32 = 0x23;

/// `struct ethtool_value`.
#[repr(C)]
struct Question {
    command: u32,
    answer: u32,
}

/// `struct ifreq` with a pointer.
#[repr(C)]
struct Request {
    name: [c_char; libc::IFNAMSIZ],
    question: *mut Question,
    rest: [usize; 2],
}

/// Whether packets may be larger than the link's when they are handed to the device; so they are where there
/// is no such device.
pub(crate) fn takes_whole_segments() -> bool {
    let mut question = Question { command: ETHTOOL_GGSO, answer: 1 };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    let mut request = Request { name, question: &raw mut question, rest: [0; 2] };
    // SAFETY: a socket is made, and closed again.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: the request is as the kernel wants it, and its question lives until the end.
    let result = unsafe { libc::ioctl(fd, SIOCETHTOOL, &raw mut request) };
    // SAFETY: nobody else knows the descriptor.
    unsafe { libc::close(fd) };
    result != 0 || question.answer != 0
}
