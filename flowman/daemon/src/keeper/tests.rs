use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rbuf_shm::{Descriptors, Listener};

use super::*;
use crate::door::Door;

/// A socket that takes a minute to be closed by whoever closes it last, unless that ends: nobody reads what it has sent.
fn lingering() -> (TcpListener, TcpStream) {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(deaf.local_addr().unwrap()).unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::from_secs(60))).unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 1 << 16]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    (deaf, stream)
}

/// A pipe that nobody writes to: whether the last copy of its other end is closed.
fn is_closed(reader: &OwnedFd) -> bool {
    rustix::io::ioctl_fionbio(reader, true).unwrap();
    rustix::io::read(reader, &mut [0; 1]) == Ok(0)
}

/// A listener of the test called `test`, and a keeper in a thread.
fn listener(test: &str) -> (std::path::PathBuf, Listener) {
    let path = std::env::temp_dir().join(format!("plumb-keeper-{test}-{}", std::process::id()));
    // Those who come here can send anything, as everywhere on an older kernel.
    let listener = Listener::bind(&path, 0o600, Descriptors::Taken).unwrap();
    (path, listener)
}

fn start() -> (Connection, std::thread::JoinHandle<()>) {
    let (ours, theirs) = Connection::pair().unwrap();
    (ours, std::thread::spawn(|| keep(theirs, false).unwrap()))
}

/// Waits until it has closed something.
fn heard(keeper: &mut Keeper) {
    let mut events = [rustix::event::PollFd::new(&keeper.connection, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut events, None).unwrap();
    keeper.hear().unwrap();
}

#[test]
fn the_flow_manager_closes_nothing_last_and_the_keeper_closes_when_told() {
    let (path, listener) = listener("last");
    let (connection, _thread) = start();
    let mut keeper = Keeper::new(connection, listener.as_fd()).unwrap();
    for words in [&b"words"[..], b""] {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let theirs = Connection::connect(&path).unwrap();
        let ours = listener.accept().unwrap().unwrap();
        keeper.keep(7, &ours).unwrap();
        theirs.send(words, &[]).unwrap();
        theirs.send(words, &[writer.as_fd()]).unwrap();
        drop((theirs, writer));
        drop(ours);
        assert!(!is_closed(&reader));
        keeper.let_go(7);
        heard(&mut keeper);
        assert!(is_closed(&reader));
    }
}

#[test]
fn a_flow_manager_that_is_gone_leaves_nobody_waiting_and_no_listener() {
    let (path, listener) = listener("gone");
    let (connection, thread) = start();
    let mut keeper = Keeper::new(connection, listener.as_fd()).unwrap();
    let theirs = Connection::connect(&path).unwrap();
    let ours = listener.accept().unwrap().unwrap();
    keeper.keep(7, &ours).unwrap();
    // As when it dies: nothing removes the path.
    let path_that_stays = path.with_extension("stays");
    std::fs::hard_link(&path, &path_that_stays).unwrap();
    drop((ours, listener));
    assert!(Connection::connect(&path_that_stays).is_ok(), "the keeper's copy listens");
    drop(keeper);
    assert!(matches!(theirs.receive(10), Err(ReceiveError::Closed)));
    thread.join().unwrap();
    let refused = Connection::connect(&path_that_stays).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    Listener::clear(&path_that_stays).unwrap();
}

#[test]
fn a_user_at_whose_object_a_thread_stands_keeps_no_other_from_being_closed() {
    let (flow_manager, theirs) = Connection::pair().unwrap();
    let (theirs, closing) = (Arc::new(theirs), Arc::new(Closing::default()));
    for _ in 0..CLOSERS {
        let (closing, theirs) = (Arc::clone(&closing), Arc::clone(&theirs));
        // They stand when the test is over.
        std::thread::spawn(move || closing.go_on(&theirs));
    }
    let mut deaf = Vec::new();
    let mut stand = |uid: u32, number: u64| {
        let (end, stream) = lingering();
        deaf.push(end);
        closing.push(uid, number, Connection::from(OwnedFd::from(stream)));
    };
    (0..CLOSERS as u64 + 8).for_each(|number| stand(1, number));
    (2..CLOSERS as u32).for_each(|uid| stand(uid, 1000));
    for number in 2000..2010 {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        closing.push(54_321, number, Connection::from(writer));
        let closed = flow_manager.receive(MESSAGE_BYTES).unwrap();
        assert_eq!(closed.bytes, number.to_le_bytes());
        assert!(is_closed(&reader));
    }
}

#[test]
fn nobody_is_accepted_while_the_keeper_has_as_many_as_it_may_and_then_all_are() {
    let (path, listener) = listener("room");
    let (connection, _thread) = start();
    let mut door = Door::kept(listener, connection).unwrap();
    door.keeper().unwrap().set_kept_max(2);
    let _theirs: Vec<_> = (0..3).map(|_| Connection::connect(&path).unwrap()).collect();
    let first = door.accept(1).unwrap().unwrap();
    let _second = door.accept(2).unwrap().unwrap();
    assert_eq!(door.accept(3).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    door.part(1, first);
    heard(door.keeper().unwrap());
    let third = door.accept(4).unwrap();
    assert!(third.is_some());
    // A keeper that does not read: who was accepted waits inside.
    let (connection, silent) = Connection::pair().unwrap();
    tell(&silent, LISTENER);
    let (path, listener) = self::listener("silent");
    let mut door = Door::kept(listener, connection).unwrap();
    let mut theirs = Vec::new();
    let mut accepted = Vec::new();
    let refused = loop {
        theirs.push(Connection::connect(&path).unwrap());
        match door.accept(accepted.len() as u64 + 1) {
            Ok(connection) => accepted.push(connection.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(theirs.len(), accepted.len() + 1);
    theirs.last().unwrap().send(b"hello", &[]).unwrap();
    // The listener, and some of the others.
    (0..2).for_each(|_| drop(silent.receive(MESSAGE_BYTES).unwrap()));
    let last = door.accept(accepted.len() as u64 + 1).unwrap().unwrap();
    assert_eq!(last.receive(10).unwrap().bytes, b"hello", "the one that was refused");
}
