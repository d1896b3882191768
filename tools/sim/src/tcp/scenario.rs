//! A connection's circumstances, and how it fared in them.

use base_flow::Rate;
use driver_link::sim::{Impairments, Side, Tally, Wire};
use stack_tcp::{Algorithm, Config};

use super::host::{Behaviour, Engine, Host, Progress, frame, packet_of};

/// Circumstances.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Of everything that is left to chance.
    pub seed: u64,
    /// Rate of the wire.
    pub rate: Rate,
    /// What happens to packets from end 0 to end 1, and back.
    pub ways: [Impairments; 2],
    /// What the engines are told.
    pub configs: [Config; 2],
    /// What the applications do.
    pub behaviours: [Behaviour; 2],
    /// The run ends here, whatever was achieved.
    pub limit_ns: u64,
}

/// The longest time in which nothing arrived although something was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stall {
    /// From when.
    pub from_ns: u64,
    /// How long.
    pub for_ns: u64,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When both ends were done, or the limit.
    pub ended_ns: u64,
    /// Whether both ends were done.
    pub finished: bool,
    /// How far the applications got.
    pub progress: [Progress; 2],
    /// Why connections ended before their time.
    pub failures: [Option<String>; 2],
    /// What became of packets.
    pub tallies: [Tally; 2],
    /// The longest time in which neither application read anything.
    pub stall: Stall,
}

impl Scenario {
    /// A perfect wire, over which end 0 sends `bytes`.
    pub fn sends(bytes: u64) -> Self {
        Self {
            seed: 1,
            rate: Rate::mbit(1000),
            ways: [Impairments::default(); 2],
            configs: [Config::default(), Config::default()],
            behaviours: [Behaviour::sends(bytes), Behaviour::sends(0)],
            limit_ns: 3_600_000_000_000,
        }
    }

    /// Circumstances drawn by lot: loss up to 30 %, reordering, duplicates, damage, round trips from 10 µs to
    /// 500 ms, buffers from 1 KB to 16 MB, different MTUs, features on and off, readers that are
    /// slow, and closing at any time.
    pub fn random(seed: u64) -> Self {
        let mut lot = fastrand::Rng::with_seed(seed);
        let rate = Rate::mbit([1, 10, 100, 1000, 10_000][lot.usize(0..5)]);
        let delay_ns = (10f64.powf(3.7 + 4.7 * lot.f64())) as u64;
        let mut way = || Impairments {
            loss_ppm: [0, 0, 1_000, 10_000, 50_000, 300_000][lot.usize(0..6)],
            duplicate_ppm: [0, 0, 10_000, 100_000][lot.usize(0..4)],
            corrupt_ppm: [0, 0, 1_000, 20_000][lot.usize(0..4)],
            reorder_ppm: [0, 0, 10_000, 200_000][lot.usize(0..4)],
            reorder_ns: lot.u64(0..=delay_ns),
            delay_ns,
            jitter_ns: if lot.bool() { 0 } else { lot.u64(0..=delay_ns / 4) },
            queue_ns: lot.bool().then(|| lot.u64(1_000_000..100_000_000)),
            mark_ns: lot.bool().then(|| lot.u64(100_000..10_000_000)),
        };
        let ways = [way(), way()];
        let mut config = || {
            let receive_bytes = 1 << lot.u32(10..=20);
            Config {
                mtu: [576, 1280, 1500, 1500, 9000][lot.usize(0..5)],
                receive_bytes,
                receive_bytes_max: receive_bytes.max(1 << lot.u32(10..=24)),
                timestamps: lot.u8(0..4) > 0,
                sack: lot.u8(0..4) > 0,
                window_scaling: lot.u8(0..4) > 0,
                ecn: lot.bool(),
                no_delay: lot.bool(),
                super_segment_bytes: [0, 0, 16_384, 65_160][lot.usize(0..4)],
                congestion: [Algorithm::Cubic, Algorithm::Cubic, Algorithm::Reno][lot.usize(0..3)],
                pacing_bytes_per_second: (lot.u8(0..8) == 0).then(|| lot.u64(10_000..10_000_000)),
                ..Config::default()
            }
        };
        let configs = [config(), config()];
        // Enough to see every phase, and not more than the worst of ways allows in a day.
        let worst = ways[0].loss_ppm.max(ways[1].loss_ppm);
        let most = if worst >= 300_000 {
            30_000
        } else if worst >= 50_000 {
            300_000
        } else {
            2_000_000
        };
        let mut behaviour = || {
            let writes = [0, 1, lot.u64(0..3_000), lot.u64(0..most)][lot.usize(0..4)];
            // A byte at a time, but not a million times.
            let least = 1 + (writes / 20_000) as usize;
            Behaviour {
                writes,
                chunk: least * [1 << 16, lot.usize(1..100), lot.usize(1..5_000)][lot.usize(0..3)],
                write_every_ns: [0, 0, lot.u64(0..5_000_000)][lot.usize(0..3)],
                read_chunk: least
                    * [1 << 16, lot.usize(1..100), lot.usize(1..5_000)][lot.usize(0..3)],
                read_every_ns: [0, 0, lot.u64(0..3_000_000)][lot.usize(0..3)],
                closes_at_ns: (lot.u8(0..6) == 0).then(|| lot.u64(0..2_000_000_000)),
                send_bytes: 1 << lot.u32(10..=24),
            }
        };
        let behaviours = [behaviour(), behaviour()];
        Self { seed, rate, ways, configs, behaviours, limit_ns: 86_400_000_000_000 }
    }

    /// The same misfortune in both directions.
    #[must_use]
    pub const fn both_ways(mut self, impairments: Impairments) -> Self {
        self.ways = [impairments; 2];
        self
    }

    /// Two of our engines; end 0 opens.
    pub fn engines(&self) -> Run<Engine, Engine> {
        let isn = |side: u64| {
            (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(13 + 7 * side as u32)) as u32
        };
        let [first, second] = self.configs.clone();
        let mut hosts = (
            Engine::new(0, first, self.behaviours[0], isn(0)),
            Engine::new(1, second, self.behaviours[1], isn(1)),
        );
        hosts.0.connect(0);
        self.between(hosts.0, hosts.1)
    }

    /// Any two hosts.
    pub fn between<A: Host, B: Host>(&self, first: A, second: B) -> Run<A, B> {
        let wire = Wire::new(self.rate, self.seed);
        wire.impair(Side::Left, self.ways[0]);
        wire.impair(Side::Right, self.ways[1]);
        Run {
            wire,
            hosts: (first, second),
            now_ns: 0,
            limit_ns: self.limit_ns,
            stall: Stall::default(),
            heard_ns: 0,
            observer: None,
        }
    }
}

/// Steps after which a run is taken for endless.
const STEPS_MAX: u64 = 3_000_000;

type Observer = Box<dyn FnMut(u64, u8, &[u8])>;

/// A scenario as it goes on.
pub struct Run<A, B> {
    wire: Wire,
    /// The hosts.
    pub hosts: (A, B),
    now_ns: u64,
    limit_ns: u64,
    stall: Stall,
    heard_ns: u64,
    observer: Option<Observer>,
}

impl<A: Host, B: Host> Run<A, B> {
    /// Shows every packet that is sent to `observer`: when, by which end, and the packet.
    #[must_use]
    pub fn observed(mut self, observer: impl FnMut(u64, u8, &[u8]) + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The present.
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The wire, to change its ways on the way.
    pub const fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Goes to the next thing that happens; `false` if nothing does before the limit.
    pub fn step(&mut self) -> bool {
        self.deliver();
        self.poll();
        let next = [
            self.wire.next_arrival(Side::Left),
            self.wire.next_arrival(Side::Right),
            self.hosts.0.deadline(),
            self.hosts.1.deadline(),
        ];
        let Some(next_ns) = next.into_iter().flatten().min().filter(|at| *at <= self.limit_ns)
        else {
            return false;
        };
        self.now_ns = self.now_ns.max(next_ns);
        self.wire.advance(self.now_ns);
        true
    }

    fn deliver(&mut self) {
        while let Some((_, bytes)) = self.wire.receive(Side::Left) {
            self.hosts.0.arrive(self.now_ns, packet_of(&bytes));
        }
        while let Some((_, bytes)) = self.wire.receive(Side::Right) {
            self.hosts.1.arrive(self.now_ns, packet_of(&bytes));
        }
    }

    fn poll(&mut self) {
        let (wire, now_ns, observer) = (&self.wire, self.now_ns, &mut self.observer);
        let mut send = |side: u8, from: Side, packet: &[u8]| {
            if let Some(observer) = observer {
                observer(now_ns, side, packet);
            }
            wire.send(from, frame(packet));
        };
        self.hosts.0.poll(now_ns, &mut |packet| send(0, Side::Left, &packet));
        self.hosts.1.poll(now_ns, &mut |packet| send(1, Side::Right, &packet));
        let read = self.hosts.0.progress().last_read_ns.max(self.hosts.1.progress().last_read_ns);
        let since_ns = self.heard_ns.max(read);
        if now_ns - since_ns > self.stall.for_ns {
            self.stall = Stall { from_ns: since_ns, for_ns: now_ns - since_ns };
        }
        self.heard_ns = self.heard_ns.max(read);
    }

    /// Whether both ends are done.
    pub fn is_finished(&self) -> bool {
        let done = |host: &dyn Host| host.is_over() || host.failure().is_some();
        done(&self.hosts.0) && done(&self.hosts.1)
    }

    /// Goes on until both ends are done or the limit is reached.
    ///
    /// # Panics
    ///
    /// If it takes more steps than any sensible exchange: two ends that answer each other for ever.
    pub fn play(&mut self) -> Outcome {
        for _ in 0..STEPS_MAX {
            if self.is_finished() || !self.step() {
                return self.outcome();
            }
        }
        panic!("no end after {STEPS_MAX} steps: {:?}", self.outcome());
    }

    /// How it went so far.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            ended_ns: self.now_ns,
            finished: self.is_finished(),
            progress: [self.hosts.0.progress(), self.hosts.1.progress()],
            failures: [self.hosts.0.failure(), self.hosts.1.failure()],
            tallies: [self.wire.tally(Side::Left), self.wire.tally(Side::Right)],
            stall: self.stall,
        }
    }
}
