//! A segment costs no allocation once the maps have grown to what the path needs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use stack_tcp::{Config, Connection, Identity, ReceiveRing, SendRing, Stream};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
#[allow(unsafe_code, reason = "counting allocations takes an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two hosts, and which of the client's segments are lost.
struct Two {
    client: Stream<SendRing, ReceiveRing>,
    server: Stream<SendRing, ReceiveRing>,
    wire: Vec<u8>,
    now_ns: u64,
    sent: u64,
}

impl Two {
    fn new() -> Self {
        let identity = |number| Identity { initial_sequence: number, timestamp_offset: number };
        let config = Config { receive_bytes: 1 << 20, ..Config::default() };
        let mut client = Connection::connect(1, config.clone(), identity(1));
        let syn = client.poll_transmit(1).unwrap().segment;
        let mut server = Connection::accept(1, config, identity(2), &syn).unwrap();
        client.on_segment(2, &server.poll_transmit(2).unwrap().segment);
        server.on_segment(3, &client.poll_transmit(3).unwrap().segment);
        let host = |connection| {
            Stream::new(connection, SendRing::new(1 << 18), ReceiveRing::new(1 << 20, 1 << 20))
        };
        let (client, server) = (host(client), host(server));
        Self { client, server, wire: Vec::with_capacity(65_536), now_ns: 10, sent: 0 }
    }

    /// A millisecond in which the client writes, and every `lost`th segment is lost.
    fn step(&mut self, lost: u64) {
        self.now_ns += 1_000_000;
        let now_ns = self.now_ns;
        let _ = self.client.write(&[7; 16_384], false);
        while let Some(transmit) = self.client.poll_transmit(now_ns) {
            self.sent += 1;
            if self.sent.is_multiple_of(lost) {
                continue;
            }
            let bytes = transmit.segment.payload_bytes as usize;
            self.wire.clear();
            for part in self.client.send.parts(transmit.offset, bytes) {
                self.wire.extend_from_slice(part);
            }
            self.server.on_segment(now_ns, &transmit.segment, &self.wire);
        }
        let mut out = [0; 4096];
        while self.server.read(now_ns, &mut out) > 0 {}
        while let Some(ack) = self.server.poll_transmit(now_ns) {
            self.client.on_segment(now_ns, &ack.segment, &[]);
        }
    }
}

#[test]
fn segments_losses_and_their_repair_cost_no_allocation() {
    for lost in [u64::MAX, 50] {
        let mut two = Two::new();
        (0..2000).for_each(|_| two.step(lost));
        let (before, sent) = (ALLOCATIONS.with(Cell::get), two.sent);
        (0..5000).for_each(|_| two.step(lost));
        assert!(two.sent - sent > 10_000, "{}", two.sent - sent);
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    }
}
