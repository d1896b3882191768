//! How what victims got with an attack is compared with what they got without.

use crate::victims::Got;

/// Pairs of turns in which the contract was kept without an attack: as many have to be unfair before the attack is
/// to blame, for somebody else on this machine may have been the cause of one.
pub const ATTEMPTS: usize = 6;

/// Pairs of turns altogether.
pub const PAIRS_MAX: usize = 14;

/// Whether `got` is at least so many thousandths of `due`.
pub fn holds(due: u64, got: u64, thousandths: u64) -> bool {
    due > 0 && got * 1000 >= due * thousandths
}

/// A pair of turns: without and with an attack.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub control: Got,
    pub attacked: Got,
}

/// How far what an attack leaves may be from what there is without it.
#[derive(Debug, Clone, Copy)]
struct Band {
    frames_thousandths: u64,
    delay_times: u64,
}

/// What is promised: the contract within 1 %, the delay that 99 of 100 echoes keep within twice.
const PROMISED: Band = Band { frames_thousandths: 990, delay_times: 2 };

/// Where a machine has so much else to do that not even the control run is what it should be.
const OVERLOADED: Band = Band { frames_thousandths: 850, delay_times: 8 };

impl Pair {
    /// Whether this can be judged: the guaranteed flow had what it was promised without an attack.
    pub fn is_whole(&self) -> bool {
        holds(self.control.due(), self.control.frames, 990)
    }

    /// Whether the victims hardly noticed the attack.
    pub fn is_fair(&self) -> bool {
        self.is_within(PROMISED)
    }

    fn is_within(&self, band: Band) -> bool {
        let (control, attacked) = (&self.control, &self.attacked);
        let silence_ns_max = (band.delay_times * control.silence_ns).max(Got::SILENCE_NS);
        holds(control.frames.min(control.due()), attacked.frames, band.frames_thousandths)
            && attacked.silence_ns <= silence_ns_max
            && holds(control.echoes, attacked.echoes, 500)
            && attacked.echo_p99_ns <= band.delay_times * control.echo_p99_ns
    }
}

/// What came out of all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The victims hardly noticed.
    Fair,
    /// Not even the control runs were what they should be; compared with them, within wider bands.
    FairForAnOverloadedMachine,
    /// The attack hurt.
    Unfair,
}

/// Judges `pairs`; nothing yet if there should be another. The best counts, and if `strict` nothing else.
pub fn judge(pairs: &[Pair], strict: bool, also: impl Fn(Got, Got) -> bool) -> Option<Verdict> {
    let agrees = |pair: &&Pair| also(pair.control, pair.attacked);
    let whole = pairs.iter().filter(|pair| pair.is_whole());
    if whole.clone().filter(agrees).any(Pair::is_fair) {
        return Some(Verdict::Fair);
    }
    let (whole, all) = (whole.count(), pairs.len());
    if whole < ATTEMPTS && all < PAIRS_MAX {
        return None;
    }
    // Where a third of the control runs was not what it should be, those that were say little of the machine.
    let overloaded = !strict && (all - whole) * 3 >= all;
    let wide = overloaded && pairs.iter().filter(agrees).any(|pair| pair.is_within(OVERLOADED));
    Some(if wide { Verdict::FairForAnOverloadedMachine } else { Verdict::Unfair })
}

/// What the guaranteed flow gets in ten periods, and an echo after a millisecond.
fn whole() -> Got {
    let frames = Got { periods: 10, ..Got::default() }.due();
    Got {
        periods: 10,
        frames,
        silence_ns: 80_000_000,
        echoes: 200,
        echo_p99_ns: 1_000_000,
        ..Got::default()
    }
}

fn verdict(control: Got, attacked: Got, count: usize) -> Option<Verdict> {
    judge(&vec![Pair { control, attacked }; count], false, |_, _| true)
}

#[test]
fn one_pair_that_is_fair_is_enough_and_it_takes_all_attempts_to_blame_an_attack() {
    assert_eq!(verdict(whole(), whole(), 1), Some(Verdict::Fair));
    let fewer = Got { frames: whole().frames * 98 / 100, ..whole() };
    let later = Got { echo_p99_ns: 2_100_000, ..whole() };
    let unheard = Got { echoes: 90, ..whole() };
    let silent = Got { silence_ns: 2 * Got::SILENCE_NS, ..whole() };
    for hurt in [fewer, later, unheard, silent] {
        assert_eq!(verdict(whole(), hurt, ATTEMPTS - 1), None);
        assert_eq!(verdict(whole(), hurt, ATTEMPTS), Some(Verdict::Unfair));
    }
    assert_eq!(judge(&[Pair { control: whole(), attacked: whole() }], false, |_, _| false), None);
}

#[test]
fn a_control_run_that_is_not_whole_is_no_attempt_and_the_last_word_has_wider_bands() {
    let starved = Got { frames: whole().frames / 2, ..whole() };
    assert_eq!(verdict(starved, starved, PAIRS_MAX - 1), None);
    let overloaded = Some(Verdict::FairForAnOverloadedMachine);
    assert_eq!(verdict(starved, starved, PAIRS_MAX), overloaded);
    let pairs = [Pair { control: starved, attacked: starved }; PAIRS_MAX];
    assert_eq!(judge(&pairs, true, |_, _| true), Some(Verdict::Unfair));
    let (kept, lost) = (Pair { control: whole(), attacked: starved }, pairs[0]);
    let mixed = |whole, not| [vec![kept; whole], vec![lost; not]].concat();
    assert_eq!(judge(&mixed(ATTEMPTS, 3), false, |_, _| true), overloaded);
    assert_eq!(judge(&mixed(ATTEMPTS, 2), false, |_, _| true), Some(Verdict::Unfair));
    let worse = Got { frames: starved.frames * 8 / 10, ..starved };
    assert_eq!(verdict(starved, worse, PAIRS_MAX), Some(Verdict::Unfair));
}
