//! Plug-in for packetdrill: anybody's packet scripts against the TCP engine, in virtual time.
//!
//! `packetdrill --so_filename=libplumb_packetdrill.so` loads this instead of opening a TUN device, and
//! calls it instead of the kernel. `world` is a [`tools_packet::Host`] with a clock; here is the
//! C side: what packetdrill calls, and how C's arguments become ours.
//!
//! # How it is run
//!
//! Assertions in scripts ask libc for `TCP_INFO` and not the plug-in, so it must be preloaded, too. Scripts set
//! sysctls; what they set is read from `/proc/sys` when a socket is made, so each script is best run
//! in a network namespace of its own. See `tools/packetdrill/README.md`.
//!
//! # Safety
//!
//! All pointers come from packetdrill, as its `packetdrill.h` promises: arguments of system calls that
//! are valid for as many bytes as their lengths say. Nothing is kept after a call returns.

mod control;
mod device;
mod epoll;
mod notices;
mod room;
mod socket;
mod watched;
mod world;

use std::ffi::{c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::ptr::null_mut;

use libc::{msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval};
use world::world;

/// `struct packetdrill_interface`: what packetdrill calls. Every function gets `userdata` first.
#[repr(C)]
#[allow(missing_docs, reason = "the names say it: they are those of the system calls")]
pub struct Interface {
    userdata: *mut c_void,
    free: extern "C" fn(*mut c_void),
    socket: extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    bind: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    listen: extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    accept: unsafe extern "C" fn(*mut c_void, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    connect: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    read: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, size_t) -> ssize_t,
    readv: unsafe extern "C" fn(*mut c_void, c_int, *const libc::iovec, c_int) -> ssize_t,
    recv: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, size_t, c_int) -> ssize_t,
    recvfrom: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut c_void,
        size_t,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    recvmsg: unsafe extern "C" fn(*mut c_void, c_int, *mut msghdr, c_int) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, size_t) -> ssize_t,
    writev: unsafe extern "C" fn(*mut c_void, c_int, *const libc::iovec, c_int) -> ssize_t,
    send: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, size_t, c_int) -> ssize_t,
    sendto: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    sendmsg: unsafe extern "C" fn(*mut c_void, c_int, *const msghdr, c_int) -> ssize_t,
    fcntl: extern "C" fn(*mut c_void, c_int, c_int, c_long) -> c_int,
    ioctl: unsafe extern "C" fn(*mut c_void, c_int, c_ulong, *mut c_int) -> c_int,
    close: extern "C" fn(*mut c_void, c_int) -> c_int,
    shutdown: extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    getsockopt: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        c_int,
        c_int,
        *mut c_void,
        *mut socklen_t,
    ) -> c_int,
    setsockopt:
        unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    poll: unsafe extern "C" fn(*mut c_void, *mut pollfd, nfds_t, c_int) -> c_int,
    netdev_send: unsafe extern "C" fn(*mut c_void, *const c_void, size_t) -> c_int,
    netdev_receive:
        unsafe extern "C" fn(*mut c_void, *mut c_void, *mut size_t, *mut c_longlong) -> c_int,
    usleep: extern "C" fn(*mut c_void, c_uint) -> c_int,
    gettimeofday: unsafe extern "C" fn(*mut c_void, *mut timeval, *mut c_void) -> c_int,
    epoll_create: extern "C" fn(*mut c_void, c_int) -> c_int,
    epoll_ctl: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *mut c_void) -> c_int,
    epoll_wait: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, c_int, c_int) -> c_int,
    pipe: extern "C" fn(*mut c_void, *mut c_int) -> c_int,
    splice: extern "C" fn(
        *mut c_void,
        c_int,
        *mut c_void,
        c_int,
        *mut c_void,
        size_t,
        c_uint,
    ) -> ssize_t,
}

/// Fills in what packetdrill is to call.
///
/// # Safety
///
/// `interface` is valid and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    _flags: *const c_char,
    interface: *mut Interface,
) {
    let filled = Interface {
        userdata: null_mut(),
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt: get_option,
        setsockopt: set_option,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    // SAFETY: the caller says so.
    unsafe { interface.write(filled) };
}

/// A call's result as C has it.
trait Returned {
    fn fail() -> Self;
}

impl Returned for c_int {
    fn fail() -> Self {
        -1
    }
}

impl Returned for ssize_t {
    fn fail() -> Self {
        -1
    }
}

/// Sets `errno` if need be.
fn returned<T: Returned>(result: Result<T, i32>) -> T {
    result.unwrap_or_else(|number| {
        // SAFETY: the location is this thread's own.
        unsafe { *libc::__errno_location() = number };
        T::fail()
    })
}

/// The bytes of a read-only argument.
///
/// # Safety
///
/// `bytes` is valid for `count` bytes, or `count` is 0.
unsafe fn input<'a>(bytes: *const c_void, count: size_t) -> &'a [u8] {
    if count == 0 || bytes.is_null() {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts(bytes.cast(), count) }
}

/// The bytes of an argument to be filled.
///
/// # Safety
///
/// `bytes` is valid and nobody else's for `count` bytes, or `count` is 0.
unsafe fn output<'a>(bytes: *mut c_void, count: size_t) -> &'a mut [u8] {
    if count == 0 || bytes.is_null() {
        return &mut [];
    }
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts_mut(bytes.cast(), count) }
}

/// The parts of a vectored argument.
///
/// # Safety
///
/// `vectors` is valid for `count` entries.
unsafe fn vectors<'a>(vectors: *const libc::iovec, count: usize) -> &'a [libc::iovec] {
    if count == 0 || vectors.is_null() {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts(vectors, count) }
}

extern "C" fn free(_: *mut c_void) {}

extern "C" fn socket(_: *mut c_void, _domain: c_int, kind: c_int, _protocol: c_int) -> c_int {
    returned(world().socket(kind))
}

unsafe extern "C" fn bind(
    _: *mut c_void,
    fd: c_int,
    to: *const sockaddr,
    bytes: socklen_t,
) -> c_int {
    // SAFETY: packetdrill's arguments are those of the system call.
    let address = unsafe { socket::address(to, bytes) };
    returned(world().bind(fd, address))
}

extern "C" fn listen(_: *mut c_void, fd: c_int, backlog: c_int) -> c_int {
    returned(world().listen(fd, backlog))
}

unsafe extern "C" fn accept(
    _: *mut c_void,
    fd: c_int,
    from: *mut sockaddr,
    bytes: *mut socklen_t,
) -> c_int {
    let accepted = world().accept(fd);
    if let Ok((_, peer)) = &accepted {
        // SAFETY: packetdrill's arguments are those of the system call.
        unsafe { socket::set_address(*peer, from, bytes) };
    }
    returned(accepted.map(|(fd, _)| fd))
}

unsafe extern "C" fn connect(
    _: *mut c_void,
    fd: c_int,
    to: *const sockaddr,
    bytes: socklen_t,
) -> c_int {
    // SAFETY: packetdrill's arguments are those of the system call.
    let address = unsafe { socket::address(to, bytes) };
    returned(world().connect(fd, address))
}

unsafe extern "C" fn read(
    data: *mut c_void,
    fd: c_int,
    out: *mut c_void,
    bytes: size_t,
) -> ssize_t {
    // SAFETY: as for `recv`.
    unsafe { recv(data, fd, out, bytes, 0) }
}

unsafe extern "C" fn readv(
    _: *mut c_void,
    fd: c_int,
    parts: *const libc::iovec,
    count: c_int,
) -> ssize_t {
    // SAFETY: packetdrill's arguments are those of the system call.
    let parts = unsafe { vectors(parts, count.max(0) as usize) };
    // SAFETY: as above.
    unsafe { receive(fd, parts, 0) }
}

unsafe extern "C" fn recv(
    _: *mut c_void,
    fd: c_int,
    out: *mut c_void,
    bytes: size_t,
    flags: c_int,
) -> ssize_t {
    let part = libc::iovec { iov_base: out, iov_len: bytes };
    // SAFETY: packetdrill's arguments are those of the system call.
    unsafe { receive(fd, &[part], flags) }
}

unsafe extern "C" fn recvfrom(
    data: *mut c_void,
    fd: c_int,
    out: *mut c_void,
    bytes: size_t,
    flags: c_int,
    _from: *mut sockaddr,
    _from_bytes: *mut socklen_t,
) -> ssize_t {
    // SAFETY: as for `recv`.
    unsafe { recv(data, fd, out, bytes, flags) }
}

unsafe extern "C" fn recvmsg(
    _: *mut c_void,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    // SAFETY: packetdrill's arguments are those of the system call.
    let message = unsafe { &mut *message };
    if flags & libc::MSG_ERRQUEUE != 0 {
        let notice = world().notice(fd).inspect(|notice| {
            message.msg_flags = libc::MSG_ERRQUEUE;
            if matches!(notice, notices::Notice::Reached { .. }) {
                // The packet would come with it, and is not read.
                message.msg_flags |= libc::MSG_TRUNC;
            }
            // SAFETY: as above.
            unsafe { tell(message, &control::notice(notice)) };
        });
        if notice.is_err() {
            (message.msg_flags, message.msg_controllen) = (libc::MSG_ERRQUEUE, 0);
        }
        return returned(notice.map(|_| 0));
    }
    message.msg_flags = 0;
    // SAFETY: as above.
    let parts = unsafe { vectors(message.msg_iov, message.msg_iovlen) };
    // SAFETY: as above.
    let result = unsafe { receive(fd, parts, flags) };
    let mut words = Vec::new();
    if let Some(rest) = world().rest(fd).filter(|_| result >= 0) {
        control::append(&mut words, libc::SOL_TCP, libc::TCP_CM_INQ, &rest.to_ne_bytes());
    }
    // SAFETY: as above.
    unsafe { tell(message, &words) };
    result
}

/// Gives control messages with a message, as far as there is room.
///
/// # Safety
///
/// The message's room for them is valid.
unsafe fn tell(message: &mut msghdr, words: &[u8]) {
    let count = words.len().min(message.msg_controllen);
    // SAFETY: the caller says so.
    unsafe { output(message.msg_control, count) }.copy_from_slice(&words[..count]);
    message.msg_controllen = count;
    if count < words.len() {
        message.msg_flags |= libc::MSG_CTRUNC;
    }
}

/// # Safety
///
/// Each part is valid and nobody else's.
unsafe fn receive(fd: c_int, parts: &[libc::iovec], flags: c_int) -> ssize_t {
    let bytes = parts.iter().map(|part| part.iov_len).sum();
    let mut received = vec![0; bytes];
    if is_nowhere(parts) {
        let there = world().read(fd, &mut received, flags | libc::MSG_PEEK);
        return returned(there.and_then(|bytes| if bytes > 0 { Err(libc::EFAULT) } else { Ok(0) }));
    }
    let result = world().read(fd, &mut received, flags);
    let mut rest = &received[..result.unwrap_or(0)];
    for part in parts {
        let (now, later) = rest.split_at(rest.len().min(part.iov_len));
        // SAFETY: the caller says so.
        unsafe { output(part.iov_base, now.len()) }.copy_from_slice(now);
        rest = later;
    }
    returned(result.map(|bytes| bytes as ssize_t))
}

/// Whether one of the parts points to nothing.
fn is_nowhere(parts: &[libc::iovec]) -> bool {
    parts.iter().any(|part| part.iov_base.is_null() && part.iov_len > 0)
}

unsafe extern "C" fn write(
    data: *mut c_void,
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: as for `send`.
    unsafe { send(data, fd, bytes, count, 0) }
}

unsafe extern "C" fn writev(
    _: *mut c_void,
    fd: c_int,
    parts: *const libc::iovec,
    count: c_int,
) -> ssize_t {
    // SAFETY: packetdrill's arguments are those of the system call.
    let parts = unsafe { vectors(parts, count.max(0) as usize) };
    // SAFETY: as above.
    unsafe { transmit(fd, parts, 0) }
}

unsafe extern "C" fn send(
    _: *mut c_void,
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    let part = libc::iovec { iov_base: bytes.cast_mut(), iov_len: count };
    // SAFETY: packetdrill's arguments are those of the system call.
    unsafe { transmit(fd, &[part], flags) }
}

unsafe extern "C" fn sendto(
    data: *mut c_void,
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_bytes: socklen_t,
) -> ssize_t {
    if flags & libc::MSG_FASTOPEN != 0 {
        let part = libc::iovec { iov_base: bytes.cast_mut(), iov_len: count };
        // SAFETY: packetdrill's arguments are those of the system call.
        let to = unsafe { socket::address(to, to_bytes) };
        // SAFETY: as above.
        return unsafe { open(fd, to, &[part], flags) };
    }
    // SAFETY: as for `send`.
    unsafe { send(data, fd, bytes, count, flags) }
}

unsafe extern "C" fn sendmsg(
    _: *mut c_void,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    // SAFETY: packetdrill's arguments are those of the system call.
    let message = unsafe { &*message };
    // SAFETY: as above.
    let parts = unsafe { vectors(message.msg_iov, message.msg_iovlen) };
    if flags & libc::MSG_FASTOPEN != 0 {
        // SAFETY: as above.
        let to = unsafe { socket::address(message.msg_name.cast(), message.msg_namelen) };
        // SAFETY: as above.
        return unsafe { open(fd, to, parts, flags) };
    }
    // SAFETY: as above.
    unsafe { transmit(fd, parts, flags) }
}

/// Connects, with data on the SYN.
///
/// # Safety
///
/// Each part is valid.
unsafe fn open(
    fd: c_int,
    to: Option<(std::net::Ipv4Addr, u16)>,
    parts: &[libc::iovec],
    flags: c_int,
) -> ssize_t {
    if is_nowhere(parts) {
        return returned(Err(libc::EFAULT));
    }
    // SAFETY: the caller says so.
    let bytes = unsafe { gathered(parts) };
    returned(world().connect_with(fd, to, &bytes, flags).map(|taken| taken as ssize_t))
}

/// What the parts hold.
///
/// # Safety
///
/// Each part is valid.
unsafe fn gathered(parts: &[libc::iovec]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        // SAFETY: the caller says so.
        bytes.extend_from_slice(unsafe { input(part.iov_base, part.iov_len) });
    }
    bytes
}

/// # Safety
///
/// Each part is valid.
unsafe fn transmit(fd: c_int, parts: &[libc::iovec], flags: c_int) -> ssize_t {
    if is_nowhere(parts) {
        return returned(Err(libc::EFAULT));
    }
    // SAFETY: the caller says so.
    let bytes = unsafe { gathered(parts) };
    returned(world().write(fd, &bytes, flags).map(|taken| taken as ssize_t))
}

extern "C" fn fcntl(_: *mut c_void, fd: c_int, command: c_int, argument: c_long) -> c_int {
    returned(world().fcntl(fd, command, argument))
}

unsafe extern "C" fn ioctl(
    _: *mut c_void,
    fd: c_int,
    request: c_ulong,
    value: *mut c_int,
) -> c_int {
    returned(world().ioctl(fd, request).map(|number| {
        // SAFETY: the requests that are known take a pointer to an integer.
        unsafe { value.write(number) };
        0
    }))
}

extern "C" fn close(_: *mut c_void, fd: c_int) -> c_int {
    returned(world().close(fd))
}

extern "C" fn shutdown(_: *mut c_void, fd: c_int, how: c_int) -> c_int {
    returned(world().shut_down(fd, how))
}

unsafe extern "C" fn get_option(
    _: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    bytes: *mut socklen_t,
) -> c_int {
    returned(world().get_option(fd, level, name).map(|found| {
        // SAFETY: packetdrill's arguments are those of the system call.
        let room = unsafe { &mut *bytes };
        let count = found.len().min(*room as usize);
        // SAFETY: as above.
        unsafe { output(value, count) }.copy_from_slice(&found[..count]);
        *room = count as socklen_t;
        0
    }))
}

unsafe extern "C" fn set_option(
    _: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    bytes: socklen_t,
) -> c_int {
    // SAFETY: packetdrill's arguments are those of the system call.
    let value = unsafe { input(value, bytes as usize) };
    returned(world().set_option(fd, level, name, value))
}

unsafe extern "C" fn poll(
    _: *mut c_void,
    fds: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: packetdrill's arguments are those of the system call.
    let fds = unsafe { std::slice::from_raw_parts_mut(fds, count as usize) };
    returned(world().poll(fds, timeout_ms))
}

unsafe extern "C" fn netdev_send(_: *mut c_void, packet: *const c_void, bytes: size_t) -> c_int {
    // SAFETY: packetdrill passes a whole packet.
    world().arrive(unsafe { input(packet, bytes) });
    0
}

unsafe extern "C" fn netdev_receive(
    _: *mut c_void,
    out: *mut c_void,
    bytes: *mut size_t,
    at_us: *mut c_longlong,
) -> c_int {
    // SAFETY: packetdrill's buffer, as long as it says.
    let (room, at) = unsafe { (&mut *bytes, &mut *at_us) };
    let Some((packet, sent_us)) = world().next_packet() else {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "plumb_packetdrill: no packet will ever leave");
        std::process::exit(1);
    };
    let count = packet.len().min(*room);
    // SAFETY: as above.
    unsafe { output(out, count) }.copy_from_slice(&packet[..count]);
    (*room, *at) = (count, sent_us);
    0
}

extern "C" fn usleep(_: *mut c_void, micros: c_uint) -> c_int {
    world().pass(u64::from(micros));
    0
}

unsafe extern "C" fn gettimeofday(_: *mut c_void, time: *mut timeval, _zone: *mut c_void) -> c_int {
    let now_us = world().clock();
    // SAFETY: packetdrill's arguments are those of the system call.
    unsafe { time.write(timeval { tv_sec: now_us / 1_000_000, tv_usec: now_us % 1_000_000 }) };
    0
}

extern "C" fn epoll_create(_: *mut c_void, _: c_int) -> c_int {
    returned(world().epoll_create())
}

unsafe extern "C" fn epoll_ctl(
    _: *mut c_void,
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut c_void,
) -> c_int {
    let event = event.cast::<libc::epoll_event>();
    // SAFETY: packetdrill's arguments are those of the system call.
    let event = (!event.is_null()).then(|| unsafe { event.read_unaligned() });
    let asked = event.map_or((0, 0), |event| (event.events, event.u64));
    returned(world().epoll_control(epoll, operation, fd, asked))
}

unsafe extern "C" fn epoll_wait(
    _: *mut c_void,
    epoll: c_int,
    events: *mut c_void,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    let Ok(room @ 1..) = usize::try_from(max) else { return returned(Err(libc::EINVAL)) };
    returned(world().epoll_wait(epoll, room, timeout_ms).map(|ready| {
        for (index, (events_now, data)) in ready.iter().enumerate() {
            let event = libc::epoll_event { events: *events_now, u64: *data };
            // SAFETY: there is room for so many.
            unsafe { events.cast::<libc::epoll_event>().add(index).write_unaligned(event) };
        }
        ready.len() as c_int
    }))
}

extern "C" fn pipe(_: *mut c_void, _: *mut c_int) -> c_int {
    returned(Err(libc::ENOSYS))
}

extern "C" fn splice(
    _: *mut c_void,
    _: c_int,
    _: *mut c_void,
    _: c_int,
    _: *mut c_void,
    _: size_t,
    _: c_uint,
) -> ssize_t {
    returned(Err(libc::ENOSYS))
}

/// What assertions in scripts call: ours for our sockets, and the kernel's for others.
///
/// # Safety
///
/// As of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    bytes: *mut socklen_t,
) -> c_int {
    if world().has(fd) {
        // SAFETY: the caller says so.
        return unsafe { get_option(null_mut(), fd, level, name, value, bytes) };
    }
    // SAFETY: the caller says so.
    unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, bytes) as c_int }
}

/// What scripts call to send a file. It goes to ours as if it had been written, and to the kernel's
/// otherwise.
///
/// # Safety
///
/// As of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    fd: c_int,
    file: c_int,
    at: *mut libc::off_t,
    bytes: size_t,
) -> ssize_t {
    if !world().has(fd) {
        // SAFETY: the caller says so.
        return unsafe { libc::syscall(libc::SYS_sendfile, fd, file, at, bytes) as ssize_t };
    }
    // SAFETY: the caller says so.
    let Some(place) = (unsafe { at.as_mut() }) else { return returned(Err(libc::EINVAL)) };
    let mut read = vec![0; bytes];
    // SAFETY: there is room for so many bytes.
    let found = unsafe { libc::pread(file, read.as_mut_ptr().cast(), bytes, *place) };
    let Ok(found) = usize::try_from(found) else { return found };
    returned(world().write(fd, &read[..found], 0).map(|taken| {
        *place += taken as libc::off_t;
        taken as ssize_t
    }))
}
