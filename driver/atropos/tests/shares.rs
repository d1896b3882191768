//! What contracts mean to those who have them: shares, slack, changes, stalls.

use base_flow::{Contract, Rate};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};

const MS: u64 = 1_000_000;
const FRAME: u64 = 123_040;

/// Flows that always have a frame, on a line that never stalls.
struct Flood {
    atropos: Atropos,
    now: i64,
    sent: Vec<u64>,
}

impl Flood {
    fn new(contracts: &[Contract]) -> Self {
        let mut flood = Self {
            atropos: Atropos::new(Line::new(Rate::mbit(100), 1514, 0), 0),
            now: 0,
            sent: Vec::new(),
        };
        for contract in contracts {
            flood.join(*contract);
        }
        flood
    }

    fn join(&mut self, contract: Contract) {
        let index = self.sent.len() as u32;
        self.sent.push(0);
        self.atropos.add(index, &contract, &[]);
        self.atropos.wake(index, FRAME, self.now);
    }

    /// Runs for `ms` and returns what each flow sent meanwhile.
    fn run(&mut self, ms: u64) -> Vec<u64> {
        let before = self.sent.clone();
        let end = self.now + (ms * MS) as i64;
        while self.now < end {
            while self.atropos.settled(self.now).is_some() {}
            match self.atropos.next(self.now) {
                Next::Serve { flow, slack, .. } => {
                    self.atropos.served(
                        flow,
                        slack,
                        FRAME,
                        true,
                        Head::Frame { cost_ns: FRAME },
                        self.now,
                    );
                    self.sent[flow as usize] += 1;
                }
                Next::Sleep { until_ns, .. } => {
                    self.now = until_ns.unwrap_or(end).min(end).max(self.now + 1)
                }
            }
        }
        self.sent
            .iter()
            .zip(before.iter().chain(std::iter::repeat(&0)))
            .map(|(a, b)| a - b)
            .collect()
    }
}

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * MS, period * MS).unwrap()
}

fn frames(ns: u64) -> i64 {
    (ns / FRAME) as i64
}

#[test]
fn six_floods_get_their_slices_to_within_a_frame() {
    let contracts: Vec<Contract> = (1..=6).map(|i| ms(4 * i, 100)).collect();
    let sent = Flood::new(&contracts).run(10_000);
    for (contract, sent) in contracts.iter().zip(sent) {
        let expected = frames(contract.slice_ns * 100);
        assert!((sent as i64 - expected).abs() <= 1, "{contract}: {sent} frames, not {expected}");
    }
}

#[test]
fn slack_takes_what_is_left_and_yields_to_every_newcomer() {
    let mut flood = Flood::new(&[Contract::BEST_EFFORT]);
    assert_eq!(flood.run(5_000)[0] as i64, frames(5_000 * MS) + 1, "alone it has the whole line");
    for (count, slice) in [6, 7, 8, 9].into_iter().enumerate() {
        flood.join(ms(slice, 100));
        let sent = flood.run(5_000);
        for (joined, slice) in [6u64, 7, 8, 9].into_iter().enumerate().take(count + 1) {
            let expected = frames(slice * 50 * MS);
            assert!(
                (sent[joined + 1] as i64 - expected).abs() <= 2,
                "{slice} ms: {} not {expected}",
                sent[joined + 1]
            );
        }
        let total: u64 = sent.iter().sum();
        assert!((total as i64 - frames(5_000 * MS)).abs() <= 1, "the line is never idle: {total}");
    }
}

#[test]
fn slack_is_shared_by_weight() {
    let weight = |weight| Contract { weight, ..Contract::BEST_EFFORT };
    let sent = Flood::new(&[weight(1), weight(3)]).run(1_000);
    assert!((sent[1] as i64 - 3 * sent[0] as i64).abs() <= 3, "{sent:?}");
}

#[test]
fn a_flow_without_slack_never_gets_more_than_its_slices() {
    let contract = ms(7, 50);
    let mut flood = Flood::new(&[contract]);
    let mut sent = Vec::new();
    for _ in 0..2_000 {
        sent.push(flood.run(1)[0]);
    }
    for window in [1u64, 10, 50, 130] {
        let most = sent.windows(window as usize).map(|w| w.iter().sum::<u64>()).max().unwrap();
        let bound = 7 * MS * (window / 50 + 2) + FRAME;
        assert!(most * FRAME <= bound, "{most} frames in {window} ms");
    }
}

#[test]
fn a_steady_sender_with_gaps_keeps_its_latency() {
    // One small frame every 5 ms under a contract with a period of 10 ms, against a flood that
    // would take the whole line: the original's rule made this wait for the next period.
    let mut flood = Flood::new(&[ms(80, 100), Contract::BEST_EFFORT]);
    let cost = flood.atropos.line().cost_ns(200);
    flood.atropos.add(2, &ms(1, 10), &[]);
    let (mut worst, mut next_at, mut pending) = (0, MS as i64, None);
    for _ in 0..20_000 {
        if flood.now >= next_at && pending.is_none() {
            flood.atropos.wake(2, cost, flood.now);
            pending = Some(next_at);
            next_at += 5 * MS as i64;
        }
        match flood.atropos.next(flood.now) {
            Next::Serve { flow: 2, slack, .. } => {
                flood.atropos.served(2, slack, cost, true, Head::Empty, flood.now);
                worst = worst.max(flood.now + cost as i64 - pending.take().unwrap());
            }
            Next::Serve { flow, slack, .. } => {
                flood.atropos.served(
                    flow,
                    slack,
                    FRAME,
                    true,
                    Head::Frame { cost_ns: FRAME },
                    flood.now,
                );
            }
            Next::Sleep { until_ns, .. } => {
                flood.now = until_ns.unwrap().min(next_at.max(flood.now + 1))
            }
        }
    }
    assert!(worst > 0 && worst <= 2 * FRAME as i64 + cost as i64, "worst {worst} ns");
}

#[test]
fn a_change_of_contract_holds_from_the_next_period() {
    let mut flood = Flood::new(&[ms(10, 100), ms(20, 100)]);
    flood.run(1_000);
    flood.atropos.set_contract(0, &ms(30, 100), &[], flood.now);
    flood.run(100);
    let sent = flood.run(2_000);
    assert!((sent[0] as i64 - frames(30 * 20 * MS)).abs() <= 1, "{sent:?}");
    assert!((sent[1] as i64 - frames(20 * 20 * MS)).abs() <= 1, "the neighbour does not notice");
}

#[test]
fn time_the_driver_could_not_run_is_reported_and_shared() {
    let mut flood = Flood::new(&[ms(40, 100), ms(40, 100)]);
    flood.run(1_000);
    let lost = 35 * MS as i64;
    flood.now += lost;
    let sent = flood.run(1_000);
    let stall = flood.atropos.stall_ns();
    assert!((stall - lost).abs() < FRAME as i64 * 2, "{stall}");
    for sent in sent {
        assert!((sent as i64 - frames(400 * MS)).abs() <= frames(40 * MS), "{sent}");
    }
}

#[test]
fn a_flow_that_wakes_while_the_line_stands_still_is_not_late_by_that_time() {
    let mut flood = Flood::new(&[Contract::BEST_EFFORT]);
    flood.run(10);
    flood.now += 40 * MS as i64;
    flood.join(ms(1, 10));
    let begun = flood.now;
    let Next::Serve { flow: 1, key_ns, .. } = flood.atropos.next(flood.now) else { panic!() };
    let due = key_ns + flood.atropos.stall_ns();
    assert!((due - begun).abs_diff(10 * MS as i64) <= 2 * FRAME, "due after {} ns", due - begun);
}

#[test]
fn a_frame_that_the_device_got_late_occupies_the_line_from_then_on() {
    let mut flood = Flood::new(&[Contract::BEST_EFFORT]);
    flood.run(10);
    let Next::Sleep { until_ns: Some(free), .. } = flood.atropos.next(flood.now) else { panic!() };
    let served = free - FRAME as i64;
    flood.atropos.handed_over(served + 10_000);
    assert_eq!(flood.atropos.stall_ns(), 0, "in time");
    let late = served + 300_000;
    flood.atropos.handed_over(late);
    assert_eq!(flood.atropos.stall_ns(), 300_000);
    let Next::Sleep { until_ns, .. } = flood.atropos.next(late) else { panic!() };
    assert_eq!(until_ns, Some(late + FRAME as i64));
}

#[test]
fn a_refused_frame_costs_its_sender_budget_but_nobody_line_time() {
    let mut flood = Flood::new(&[ms(4, 100), Contract::BEST_EFFORT]);
    let end = 1_000 * MS as i64;
    let (mut refused, mut sent) = (0i64, 0i64);
    while flood.now < end {
        match flood.atropos.next(flood.now) {
            Next::Serve { flow: 0, slack, .. } => {
                flood.atropos.served(
                    0,
                    slack,
                    6_720,
                    false,
                    Head::Frame { cost_ns: 6_720 },
                    flood.now,
                );
                refused += 1;
            }
            Next::Serve { flow, slack, .. } => {
                flood.atropos.served(
                    flow,
                    slack,
                    FRAME,
                    true,
                    Head::Frame { cost_ns: FRAME },
                    flood.now,
                );
                sent += 1;
            }
            Next::Sleep { until_ns, .. } => flood.now = until_ns.unwrap(),
        }
    }
    assert!(
        (refused - 40 * MS as i64 / 6_720).abs() <= 10,
        "{refused} attempts in 40 ms of slices"
    );
    assert!((sent - frames(1_000 * MS)).abs() <= 1, "{sent}");
}

#[test]
fn a_removed_flow_leaves_no_trace() {
    let mut flood = Flood::new(&[ms(10, 100), ms(20, 100), Contract::BEST_EFFORT]);
    flood.run(333);
    flood.atropos.remove(0);
    flood.atropos.remove(2);
    flood.atropos.remove(9);
    let sent = flood.run(1_000);
    assert_eq!((sent[0], sent[2]), (0, 0));
    flood.atropos.add(0, &ms(30, 100), &[]);
    flood.atropos.wake(0, FRAME, flood.now);
    let sent = flood.run(1_000);
    assert!((sent[0] as i64 - frames(300 * MS)).abs() <= frames(30 * MS), "{sent:?}");
}

#[test]
fn who_closes_and_opens_whenever_a_slice_is_used_up_has_one_share_of_the_line() {
    let all = ms(45, 100);
    let mut flood = Flood::new(&[all, Contract::BEST_EFFORT]);
    flood.sent.resize(40, 0);
    flood.atropos.remove(1);
    let (mut mine, mut place) = (0, 0);
    for _ in 0..2_000 {
        mine += flood.run(1)[place as usize];
        // The next one is admitted after the last, as long as that is not settled.
        let next = (place + 1) % 40;
        if !flood.atropos.binds(next) {
            flood.atropos.remove(place);
            flood.atropos.add(next, &all, &[place]);
            flood.atropos.wake(next, FRAME, flood.now);
            place = next;
        }
    }
    let share = frames(45 * 20 * MS);
    assert!((mine as i64 - share).abs() <= frames(45 * MS), "{mine} frames, not {share}");
}

#[test]
fn a_contract_is_settled_when_what_was_sent_is_paid_for_and_not_before() {
    let mut flood = Flood::new(&[ms(40, 100)]);
    flood.atropos.add(2, &ms(20, 100), &[]);
    flood.run(5);
    // 5 of 40 ms, which is 12.5 of 100.
    let (sent, asked) = (flood.sent[0], flood.now);
    flood.atropos.remove(0);
    flood.atropos.remove(2);
    assert!(!flood.atropos.binds(2), "it has sent nothing");
    flood.atropos.next(asked);
    let paid = (sent * FRAME * 100 / 40) as i64;
    assert!(paid > asked, "{paid}");
    assert_eq!(flood.atropos.settled(paid - 2), None);
    assert_eq!(flood.atropos.settled(paid + 4), Some(0));
    assert_eq!(flood.atropos.settled(paid + 4), None, "it is said once");
}

#[test]
fn contracts_that_were_ended_are_settled_in_the_order_in_which_they_began() {
    let mut flood = Flood::new(&[ms(40, 100)]);
    flood.run(10);
    flood.atropos.remove(0);
    // Ended before it began: it is over when the first one is.
    flood.atropos.add(1, &ms(40, 100), &[0]);
    flood.atropos.remove(1);
    flood.atropos.add(2, &ms(40, 100), &[1]);
    let Next::Sleep { until_ns: Some(at), .. } = flood.atropos.next(flood.now) else { panic!() };
    assert_eq!(flood.atropos.settled(at + 10), Some(0));
    assert_eq!(flood.atropos.settled(at + 10), Some(1));
    assert_eq!(flood.atropos.settled(at + 10), None);
}

#[test]
fn a_frame_that_claims_to_be_endless_is_no_claim_on_anybodys_slack() {
    let mut flood = Flood::new(&[Contract::BEST_EFFORT, Contract::BEST_EFFORT]);
    flood.atropos.add(2, &Contract::BEST_EFFORT, &[]);
    flood.atropos.wake(2, u64::MAX, 0);
    let (mut honest, end) = ([0i64; 2], 1_000 * MS as i64);
    while flood.now < end {
        match flood.atropos.next(flood.now) {
            Next::Serve { flow: 2, slack, .. } => {
                // It is refused, and after half the time its owner sends honest frames.
                let cost = if flood.now < end / 2 { 6_720 } else { FRAME };
                let claim = if flood.now < end / 2 { u64::MAX } else { FRAME };
                let (head, sent) = (Head::Frame { cost_ns: claim }, cost == FRAME);
                flood.atropos.served(2, slack, cost, sent, head, flood.now);
            }
            Next::Serve { flow, slack, .. } => {
                let head = Head::Frame { cost_ns: FRAME };
                flood.atropos.served(flow, slack, FRAME, true, head, flood.now);
                honest[flow as usize] += 1;
            }
            Next::Sleep { until_ns, .. } => flood.now = until_ns.unwrap(),
        }
    }
    // Two have the first half to themselves; then they are three.
    let share = frames(250 * MS) + frames(500 * MS / 3);
    assert!(honest.iter().all(|sent| (sent - share).abs() <= 4), "{honest:?}, not {share}");
}

#[test]
fn a_delay_is_a_stall_from_twenty_microseconds_on() {
    let flood = || {
        let mut flood = Flood::new(&[Contract::BEST_EFFORT]);
        let Next::Serve { flow: 0, slack: true, .. } = flood.atropos.next(0) else { panic!() };
        let head = Head::Frame { cost_ns: FRAME };
        flood.atropos.served(0, true, FRAME, true, head, 0);
        flood.atropos
    };
    for (delay, stall) in [(0, 0), (20_000, 0), (20_001, 20_001), (MS as i64, MS as i64)] {
        let mut handed = flood();
        handed.handed_over(delay);
        assert_eq!(handed.stall_ns(), stall, "handed over after {delay} ns");
        let mut asked = flood();
        asked.next(FRAME as i64 + delay);
        assert_eq!(asked.stall_ns(), stall, "asked after {delay} ns");
    }
}

#[test]
fn a_flow_is_told_once_in_a_period_that_a_frame_of_it_was_late() {
    // Two that claim all of the line each: more than there is.
    let mut flood = Flood::new(&[ms(99, 100), ms(99, 100)]);
    let (mut missed, mut served) = (0, 0);
    while flood.now < 1_000 * MS as i64 {
        match flood.atropos.next(flood.now) {
            Next::Serve { flow, slack, .. } => {
                let head = Head::Frame { cost_ns: FRAME };
                missed +=
                    u32::from(flood.atropos.served(flow, slack, FRAME, true, head, flood.now));
                served += 1;
            }
            Next::Sleep { until_ns, .. } => flood.now = until_ns.unwrap(),
        }
    }
    assert!(served > 8_000);
    assert!((4..=20).contains(&missed), "{missed} periods of 20");
}

#[test]
#[should_panic(expected = "flow 0 is added twice")]
fn a_place_is_taken_once() {
    let mut flood = Flood::new(&[ms(10, 100)]);
    flood.atropos.add(0, &ms(10, 100), &[]);
}

#[test]
#[should_panic(expected = "flow 0 is added twice")]
fn a_place_where_a_contract_binds_is_not_taken() {
    let mut flood = Flood::new(&[ms(10, 100)]);
    flood.run(5);
    flood.atropos.remove(0);
    assert!(flood.atropos.binds(0) && !flood.atropos.binds(1));
    flood.atropos.add(0, &ms(10, 100), &[]);
}

#[test]
fn only_who_has_a_frame_when_his_period_begins_makes_a_late_caller_stall() {
    for (head, stall) in
        [(Head::Empty, 0), (Head::Frame { cost_ns: FRAME }, MS as i64), (Head::Blocked, 0)]
    {
        let mut flood = Flood::new(&[Contract::guaranteed(FRAME, 10 * MS).unwrap()]);
        let Next::Serve { flow: 0, slack: false, .. } = flood.atropos.next(0) else { panic!() };
        flood.atropos.served(0, false, FRAME, true, head, 0);
        let asleep = flood.atropos.next(FRAME as i64);
        let Next::Sleep { until_ns, .. } = asleep else { panic!("{asleep:?}") };
        let begins = (head != Head::Blocked).then_some(10 * MS as i64);
        assert_eq!(until_ns, begins, "{head:?}");
        flood.atropos.next(11 * MS as i64);
        assert_eq!(flood.atropos.stall_ns(), stall, "{head:?}");
    }
}

#[test]
fn who_sleeps_until_he_was_told_to_has_something_to_do_then() {
    let mut flood = Flood::new(&[Contract::guaranteed(FRAME, 10 * MS + 1).unwrap()]);
    for _ in 0..20 {
        let next = flood.atropos.next(flood.now);
        let Next::Serve { slack: false, .. } = next else { panic!("{next:?}") };
        let head = Head::Frame { cost_ns: FRAME };
        flood.atropos.served(0, false, FRAME, true, head, flood.now);
        let Next::Sleep { until_ns, .. } = flood.atropos.next(flood.now) else { panic!() };
        flood.now = until_ns.unwrap();
        if let Next::Sleep { until_ns, .. } = flood.atropos.next(flood.now) {
            assert!(until_ns.unwrap() > flood.now, "the line was free");
            flood.now = until_ns.unwrap();
        }
    }
    assert_eq!(flood.now, 20 * (10 * MS as i64 + 1));
}

#[test]
fn only_what_the_thread_was_kept_from_its_processor_is_stall_and_the_rest_is_caught_up_with() {
    let lose = |worked: i64| {
        let mut flood = Flood::new(&[ms(20, 100), Contract::BEST_EFFORT]);
        flood.atropos.ran(flood.now, 0);
        flood.run(1_000);
        let before = flood.sent[0];
        flood.atropos.ran(flood.now, flood.now as u64);
        // It is kept busy elsewhere for so long, and away for as long.
        flood.now += 2 * worked;
        flood.atropos.ran(flood.now, (flood.now - worked) as u64);
        flood.run(1_000);
        (flood.atropos.stall_ns(), flood.sent[0] - before)
    };
    let worked = 40 * MS as i64;
    let (stall, sent) = lose(worked);
    assert!((stall - worked).abs() < 2 * FRAME as i64, "{stall} ns");
    // A period has begun in the time in which it worked, besides the ten that follow.
    let slices = frames(220 * MS);
    assert!((sent as i64 - slices).abs() <= 2, "{sent} frames, not {slices}");
}

#[test]
fn work_for_which_there_is_no_time_makes_frames_late_by_no_more_than_is_caught_up_with() {
    let mut flood = Flood::new(&[ms(50, 100), ms(45, 100)]);
    let mut missed = 0;
    flood.atropos.ran(0, 0);
    // Every frame takes twice what it is charged, all of it of the processor.
    for _ in 0..100_000 {
        match flood.atropos.next(flood.now) {
            Next::Serve { flow, slack, key_ns } => {
                let late = flood.now - flood.atropos.stall_ns() - key_ns;
                assert!(flood.sent.iter().sum::<u64>() < 20_000 || late > 0);
                let head = Head::Frame { cost_ns: FRAME };
                let is_late = flood.atropos.served(flow, slack, FRAME, true, head, flood.now);
                missed += u64::from(is_late);
                flood.sent[flow as usize] += 1;
                flood.now += 2 * FRAME as i64;
                flood.atropos.ran(flood.now, flood.now as u64);
                flood.atropos.handed_over(flood.now - FRAME as i64);
            }
            Next::Sleep { until_ns, .. } => flood.now = until_ns.unwrap().max(flood.now + 1),
        }
    }
    assert_eq!(flood.atropos.stall_ns(), 0, "the machine took nothing");
    assert!(missed > 50, "{missed}");
    // It ends: what had no time is not made up for.
    let before = flood.sent.clone();
    flood.run(1_000);
    let sent: Vec<i64> = flood.sent.iter().zip(before).map(|(a, b)| (a - b) as i64).collect();
    let most = frames(500 * MS) + frames(60 * MS);
    assert!(sent[0] <= most && sent[1] <= most, "{sent:?}");
}

#[test]
fn a_period_that_begins_far_off_keeps_no_nearer_one_waiting() {
    // Buckets are 128 ns wide: 100 ms are beyond those that are kept in order.
    let line = Line::new(Rate::mbit(10_000), 1514, 0);
    let cost_ns = line.frame_ns();
    let mut atropos = Atropos::new(line, 0);
    for (index, period_ms) in [(0, 100), (1, 10)] {
        let contract = Contract::guaranteed(10 * cost_ns, period_ms * MS).unwrap();
        atropos.add(index, &contract, &[]);
        atropos.wake(index, cost_ns, 0);
    }
    let (mut now, mut sent) = (0, [0u64; 2]);
    while now < 1_000 * MS as i64 {
        match atropos.next(now) {
            Next::Serve { flow, slack, .. } => {
                sent[flow as usize] += 1;
                atropos.served(flow, slack, cost_ns, true, Head::Frame { cost_ns }, now);
            }
            Next::Sleep { until_ns, .. } => now = until_ns.unwrap().max(now + 1),
        }
    }
    assert_eq!(sent.map(|frames| (frames + 5) / 10), [10, 100]);
}

#[test]
fn a_frame_that_is_as_late_as_the_bound_says_is_in_time_and_a_nanosecond_later_is_not() {
    for (later, missed) in [(0, false), (1, true)] {
        let line = Line::new(Rate::mbit(100), 1514, 0);
        let mut atropos = Atropos::new(line, 0);
        atropos.add(0, &ms(10, 100), &[]);
        atropos.wake(0, FRAME, 0);
        let Next::Serve { flow: 0, key_ns, .. } = atropos.next(0) else { panic!() };
        let at = key_ns + line.tardiness_ns() as i64 - FRAME as i64 + later;
        assert_eq!(atropos.served(0, false, FRAME, true, Head::Empty, at), missed, "{later}");
    }
}
