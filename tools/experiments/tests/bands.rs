//! Every experiment holds its bands in virtual time, and is the same to the byte for the same seed.

use tools_experiments::experiments::Experiment;
use tools_experiments::report;

fn holds(experiment: Experiment) {
    let outcome = experiment.simulate(1);
    assert!(outcome.pass, "{}", report::text(&outcome));
}

#[test]
fn fig5a_holds_its_bands() {
    holds(Experiment::Fig5a);
}

#[test]
fn fig5b_holds_its_bands() {
    holds(Experiment::Fig5b);
}

#[test]
fn fig6_holds_its_bands() {
    holds(Experiment::Fig6);
}

#[test]
fn fig7_holds_its_bands() {
    holds(Experiment::Fig7);
}

#[test]
fn flood_holds_its_bands() {
    holds(Experiment::Flood);
}

#[test]
fn closed_holds_its_bands() {
    holds(Experiment::Closed);
}

#[test]
fn bill_holds_its_bands() {
    holds(Experiment::Bill);
}

#[test]
fn latency_holds_its_bands() {
    holds(Experiment::Latency);
}

#[test]
fn scale_holds_its_bands() {
    holds(Experiment::Scale);
}

#[test]
fn four_hundred_hostile_task_sets_never_miss_a_deadline_by_more_than_the_bound() {
    holds(Experiment::Adversary);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let outcome = Experiment::Adversary.simulate(seed);
        (report::text(&outcome), report::csv(&outcome))
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
