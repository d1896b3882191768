//! Applications that harm nobody, and what they get.

use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base_flow::Contract;
use plumb_net::{Host, Udp};
use rbuf_shm::monotonic_ns;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::in_lab::{OURS, THEIRS, host, kernel_socket, socket};
use crate::used::Over;

const VICTIM_PORT: u16 = 6001;
const ECHO_PORT: u16 = 6002;

/// The guaranteed flow's contract, and the line's time for each of its frames at the lab's 100 Mbit/s.
const SLICE_NS: u64 = 20_000_000;
const PERIOD_NS: u64 = 100_000_000;
const FRAME_NS: u64 = 123_040;

/// No answer for so long counts as an answer that took so long.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long no answer at all takes.
const NEVER_NS: u64 = 1 << 56;

/// What the victims got in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Got {
    /// Periods of the guaranteed flow that were looked at.
    pub periods: u64,
    /// Frames of the guaranteed flow that arrived at the peer in these.
    pub frames: u64,
    /// The longest time in which none arrived.
    pub silence_ns: u64,
    /// Echoes that the peer asked for, and the time after which 99 of 100 were there.
    pub echoes: u64,
    pub echo_p99_ns: u64,
    /// Flows that another application opened and closed.
    pub opens: u64,
}

impl Got {
    /// A flow that has used its slice at the beginning of one period and at the end of the next has kept its contract,
    /// and one frame may be late by the bound.
    pub const SILENCE_NS: u64 = 2 * PERIOD_NS;

    /// Frames that the guaranteed flow's contract is, in so many periods.
    pub const fn due(&self) -> u64 {
        self.periods * SLICE_NS / FRAME_NS
    }
}

/// When what happened.
#[derive(Default)]
pub struct Events {
    frames: Mutex<Vec<u64>>,
    /// When it was asked, and how long the answer took.
    echoes: Mutex<Vec<(u64, u64)>>,
    opens: Mutex<Vec<u64>>,
}

impl Events {
    /// What the victims get in so many periods of the guaranteed flow.
    pub fn turn(&self, periods: u64) -> Got {
        self.frames.lock().unwrap().clear();
        self.echoes.lock().unwrap().clear();
        self.opens.lock().unwrap().clear();
        let begun = monotonic_ns();
        // One until a period begins, and one in which the last frames of the last are read.
        let end = begun + (periods + 2) * PERIOD_NS;
        while let left @ 1.. = end.saturating_sub(monotonic_ns()) {
            std::thread::park_timeout(Duration::from_nanos(left));
        }
        let frames = std::mem::take(&mut *self.frames.lock().unwrap());
        let from = aligned(&frames, begun);
        let within = from..from + periods * PERIOD_NS;
        let frames: Vec<u64> = frames.into_iter().filter(|at| within.contains(at)).collect();
        let edges = [&[within.start], &frames[..], &[within.end]].concat();
        let mut echoes: Vec<u64> = self
            .echoes
            .lock()
            .unwrap()
            .iter()
            .copied()
            .filter_map(|(at, took)| within.contains(&at).then_some(took))
            .collect();
        echoes.sort_unstable();
        let opens = self.opens.lock().unwrap();
        Got {
            periods,
            frames: frames.len() as u64,
            silence_ns: edges.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0),
            echoes: echoes.len() as u64,
            echo_p99_ns: echoes.get(echoes.len() * 99 / 100).copied().unwrap_or(NEVER_NS),
            opens: opens.iter().filter(|at| within.contains(at)).count() as u64,
        }
    }
}

/// A moment after `begun`, a period at most, at which the flow has used up its slice: what is counted from there for
/// whole periods is whole slices, wherever in its period each was used.
///
/// On an idle line a slice is used as soon as its period begins, and then nothing comes: the earliest beginnings tell
/// the grid, for nothing makes one come too early.
fn aligned(frames: &[u64], begun: u64) -> u64 {
    let mut starts =
        frames.windows(2).filter(|pair| pair[1] - pair[0] > QUIET_NS).map(|pair| pair[1]);
    let Some(first) = starts.next() else { return begun };
    let late = |at: u64| {
        let phase = ((at - first) % PERIOD_NS) as i64;
        if phase > PERIOD_NS as i64 / 2 { phase - PERIOD_NS as i64 } else { phase }
    };
    let grid = first.saturating_add_signed(starts.map(late).min().unwrap_or(0).min(0));
    let from = grid as i64 - QUIET_NS as i64 - begun as i64;
    begun + from.rem_euclid(PERIOD_NS as i64) as u64
}

/// A slice takes a fifth of its period if nobody else sends.
const QUIET_NS: u64 = 20_000_000;

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

/// With the victims at work: one sends all it may, one answers the peer, one opens and closes flows.
pub fn with_victims<T>(judge: impl FnOnce(&Events) -> T) -> T {
    let host = host();
    let sender = Udp::options()
        .host(&host)
        .contract(Contract::guaranteed(SLICE_NS, PERIOD_NS).unwrap())
        .send_buffers(256)
        .between((OURS, VICTIM_PORT), (THEIRS, 7001))
        .unwrap();
    let echo = Udp::options()
        .host(&host)
        .contract(ms(1, 20))
        .between((OURS, ECHO_PORT), (THEIRS, 7002))
        .unwrap();
    let (sink, asker) = (kernel_socket(7001), kernel_socket(7002));
    // Whoever reads may be late: that is no loss.
    set_socket_recv_buffer_size_force(&sink, 16 << 20).unwrap();
    let moment = Some(Duration::from_millis(100));
    sink.set_read_timeout(moment).unwrap();
    echo.set_read_timeout(moment);
    sender.set_write_timeout(moment);
    let (events, stop) = (Events::default(), AtomicBool::new(false));
    let going = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                let _ = sender.send(&[0x11; 1472]);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 2000];
            while going() {
                if sink.recv(&mut buffer).is_ok() {
                    events.frames.lock().unwrap().push(monotonic_ns());
                }
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 2000];
            while going() {
                if let Ok(bytes) = echo.recv(&mut buffer) {
                    let _ = echo.send(&buffer[..bytes]);
                }
            }
        });
        scope.spawn(|| ask(&asker, &events.echoes, &going));
        let applicant = Host::connect(&socket()).unwrap();
        let (opens, going) = (&events.opens, &going);
        scope.spawn(move || {
            while going() {
                if Udp::options().host(&applicant).connect((THEIRS, 7003)).is_ok() {
                    opens.lock().unwrap().push(monotonic_ns());
                }
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        // What is judged may fail, and the scope waits for its threads also then.
        let _end = Over(&stop);
        judge(&events)
    })
}

/// Asks one question after the other, each when the last is answered or given up.
fn ask(asker: &UdpSocket, echoes: &Mutex<Vec<(u64, u64)>>, going: &impl Fn() -> bool) {
    let mut number = 0u64;
    while going() {
        number += 1;
        let mut question = [0x22; 64];
        question[..8].copy_from_slice(&number.to_be_bytes());
        let asked = monotonic_ns();
        asker.send_to(&question, (OURS, ECHO_PORT)).unwrap();
        let took = loop {
            let took = monotonic_ns() - asked;
            let left = PATIENCE.saturating_sub(Duration::from_nanos(took));
            if left.is_zero() {
                break took;
            }
            asker.set_read_timeout(Some(left)).unwrap();
            let mut answer = [0; 64];
            // An older one may still come.
            if asker.recv(&mut answer).is_ok() && answer == question {
                break monotonic_ns() - asked;
            }
        };
        echoes.lock().unwrap().push((asked, took));
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_turn_counts_whole_slices_wherever_in_their_periods_they_come() {
    let ms = 1_000_000;
    // Slices of 20 frames, a millisecond each, as late in each of their periods as `late` says.
    let frames = |late: [u64; 4]| -> Vec<u64> {
        let of = |(period, late): (usize, u64)| {
            (0..20).map(move |frame| (1000 + period as u64 * 100 + late + frame) * ms)
        };
        late.into_iter().enumerate().flat_map(of).collect()
    };
    for late in [[0; 4], [0, 15, 0, 30], [15, 0, 60, 0], [30, 30, 0, 15]] {
        let frames = frames(late);
        let from = aligned(&frames, 1090 * ms);
        assert!((1090 * ms..1190 * ms).contains(&from), "{from}");
        let within = from..from + 200 * ms;
        assert_eq!(frames.iter().filter(|at| within.contains(at)).count(), 40, "{late:?}");
    }
}
