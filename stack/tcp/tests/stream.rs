//! A connection with its buffers: what is read, looked at and thrown away of what has arrived.

use stack_tcp::{Config, Connection, Identity, ReceiveRing, SendRing, State, Stream};

type Ends = Stream<SendRing, ReceiveRing>;

fn pair(capacity: usize, capacity_max: usize) -> (Ends, Ends) {
    let config = Config { receive_bytes_max: capacity_max as u32, ..Config::default() };
    let identity = |number| Identity { initial_sequence: number, timestamp_offset: 0 };
    let with_buffers = |connection| {
        Stream::new(connection, SendRing::new(1 << 16), ReceiveRing::new(capacity, capacity_max))
    };
    let mut a = Connection::connect(1, config.clone(), identity(1));
    let syn = a.poll_transmit(1).unwrap().segment;
    let b = Connection::accept(1, config, identity(2), &syn).unwrap();
    let (mut a, mut b) = (with_buffers(a), with_buffers(b));
    exchange(&mut a, &mut b);
    assert_eq!(
        (a.connection.state(), b.connection.state()),
        (State::Established, State::Established)
    );
    (a, b)
}

/// Both deliver to each other until both are silent.
fn exchange(a: &mut Ends, b: &mut Ends) {
    let pass = |from: &mut Ends, to: &mut Ends| {
        let Some(sent) = from.poll_transmit(2) else { return false };
        let parts = from.send.parts(sent.offset, sent.segment.payload_bytes as usize);
        let payload = parts.concat();
        to.on_segment(2, &sent.segment, &payload);
        true
    };
    while pass(a, b) | pass(b, a) {}
}

#[test]
fn what_is_looked_at_can_be_read_again_and_what_is_skipped_cannot() {
    let (mut a, mut b) = pair(4096, 4096);
    assert_eq!(a.write(b"0123456789", false), Ok(10));
    exchange(&mut a, &mut b);
    let mut out = [0; 4];
    assert_eq!((b.peek(&mut out), &out), (4, b"0123"));
    assert_eq!((b.peek(&mut out), &out), (4, b"0123"));
    assert_eq!((b.skip(3, 3), b.connection.readable()), (3, 7));
    assert_eq!((b.read(3, &mut out), &out), (4, b"3456"));
    assert_eq!((b.peek(&mut out), &out[..3]), (3, &b"789"[..]));
    assert_eq!((b.skip(3, 100), b.connection.readable()), (3, 0));
    assert_eq!((b.skip(3, 1), b.peek(&mut out), b.read(3, &mut out)), (0, 0, 0));
}
