//! Accounts by exact figures, and what many users may spend together.

use super::*;

const MS: u64 = 1_000_000;

#[test]
fn a_budget_is_what_was_earned_and_no_more() {
    let mut budget = Budget::new(100_000_000);
    assert!(budget.is_open(0), "a new flow starts with its savings");
    budget.pay(500_000);
    assert!(!budget.is_open(1));
    budget.pay(250_000);
    assert!(!budget.is_open(2_500_000), "a tenth of 2.5 ms pays a debt of 0.25 ms");
    assert!(budget.is_open(2_500_100));
    budget.pay(1_000_000_000);
    assert!(!budget.is_open(7_500_000) && budget.is_open(7_500_300), "debt has a limit too");
}

#[test]
fn a_small_budget_saves_up_for_a_burst_in_a_pause_and_for_no_second_one() {
    let mut budget = Budget::new(50_000_000);
    budget.save_up(600 * HEARD_NS);
    let burst = |budget: &mut Budget, now_ns| {
        let heard = (0..10_000).take_while(|_| {
            let open = budget.is_open(now_ns);
            budget.pay(if open { HEARD_NS } else { 0 });
            open
        });
        heard.count()
    };
    assert_eq!(burst(&mut budget, 0), 600);
    assert_eq!(burst(&mut budget, MS), 25, "what a twentieth earns");
    assert_eq!(burst(&mut budget, 100 * MS), 600);
    assert_eq!(burst(&mut budget, 1_000 * MS), 600);
    budget.save_up(u64::MAX);
    assert_eq!(burst(&mut budget, 1_000 * MS), 2_500, "as much as one with the whole time");
    assert_eq!(burst(&mut budget, 2_000 * MS), 2_500);
}

#[test]
fn what_is_asked_too_often_to_earn_anything_earns_all_the_same() {
    let mut budget = Budget::new(100_000_000);
    budget.pay(500_001);
    assert!(!budget.is_open(5) && !budget.is_open(9), "a debt of 1 ns takes 10 ns and more");
    assert!(budget.is_open(20));
    let mut accounts = accounts();
    let mut account = accounts.open(Some(1), 1);
    accounts.pay(&mut account, 1_250_100);
    for now in 1..=400 {
        accounts.at(now);
        accounts.is_open(&mut account);
    }
    assert_eq!(account.left, 0, "a quarter of 400 ns");
}

#[test]
fn the_deepest_debt_is_paid_and_the_savings_are_made_in_twice_the_time_they_take() {
    let mut budget = Budget::new(100_000_000);
    budget.pay(1_000_000_000);
    assert!(budget.is_open(10 * MS));
    assert_eq!(budget.left, 500_000);
}

/// Accounts of a driver that has another user, who does nothing.
fn accounts() -> Accounts {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    accounts.open(Some(u32::MAX), 1);
    accounts
}

#[test]
fn who_was_active_counts_in_that_window_and_the_next_and_no_longer() {
    let mut accounts = accounts();
    let mut open: Vec<Account> = (0..4).map(|uid| accounts.open(Some(uid), 1)).collect();
    for account in &mut open {
        // Paid for already: nobody is active by that.
        accounts.sent(account, 1);
        accounts.pay(account, SENT_NS);
    }
    assert_eq!(accounts.income_ppb(&open[0]), 250_000_000);
    open.iter_mut().for_each(|account| accounts.pay(account, 1));
    for (ms, income) in [(0, 125_000_000), (19, 125_000_000), (20, 250_000_000)] {
        accounts.at(ms * MS);
        assert_eq!(accounts.income_ppb(&open[0]), income, "at {ms} ms");
    }
}

#[test]
fn the_flow_manager_pays_nothing_and_receives_whatever_its_flows_may() {
    let mut accounts = accounts();
    let mut account = accounts.open(None, 0);
    let before = account.left;
    accounts.pay(&mut account, 1_000 * MS);
    assert_eq!(account.left, before);
    let mut flow = Accounts::receiver(&account, 1_000_000_000);
    assert!(accounts.receives(&mut flow, 0));
    accounts.pay_receiver(&mut flow, 4 * MS);
    assert!(accounts.receives(&mut flow, 0), "a millisecond of five is left");
}

#[test]
fn a_user_has_one_budget_for_all_its_domains_until_it_is_another_user_or_another_rate() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    const RATE: u32 = 100_000_000;
    let owes = |accounts: &Accounts, account: &Account| {
        accounts.users[account.user as usize].receive.left < 0
    };
    let other = accounts.open(Some(7), RATE);
    let first = accounts.open(Some(1), RATE);
    let mut flow = Accounts::receiver(&first, RATE);
    accounts.pay_receiver(&mut flow, 1_000 * MS);
    let second = accounts.open(Some(1), RATE);
    assert_eq!((first.user, owes(&accounts, &second)), (second.user, true));
    // Going and coming back pays no debt, wherever there is a place.
    [&first, &second, &other].iter().for_each(|account| accounts.close(account));
    let back = accounts.open(Some(1), RATE);
    assert!(owes(&accounts, &back));
    let faster = accounts.open(Some(1), 2 * RATE);
    assert_eq!(accounts.users[faster.user as usize].receive.left, 1_000_000);
    // The next user in a place has nothing to do with the one before.
    accounts.pay_receiver(&mut flow, 1_000 * MS);
    [&back, &faster].iter().for_each(|account| accounts.close(account));
    let next = [2, 3].map(|uid| accounts.open(Some(uid), 2 * RATE));
    assert!(next.iter().all(|account| !owes(&accounts, account)));
    assert_eq!(accounts.users.len(), 2, "both have places that were left");
}

#[test]
fn what_is_reserved_for_guaranteed_flows_is_what_they_can_spend() {
    let mut accounts = accounts();
    let (mut one, mut two) = (accounts.open(Some(1), 1), accounts.open(Some(2), 1));
    let contract = Contract::guaranteed(20 * MS, 100 * MS).unwrap();
    accounts.reserve(&mut one, None, Some(&contract));
    accounts.reserve(&mut two, None, Some(&contract));
    // A fifth of the shortest frames' 6720 ns each: 2000 ns for the notice, and 1000 ns for the frame.
    let notice_ppb = 297_619_047 / 5;
    assert_eq!((one.reserve_ppb, two.reserve_ppb), (notice_ppb, notice_ppb));
    assert_eq!(accounts.reserved_ppb, 2 * ((297_619_047 + 148_809_523) / 5));
}

#[test]
fn an_account_is_shut_when_it_is_empty_until_half_is_saved_but_for_what_was_sent() {
    let mut accounts = accounts();
    let mut account = accounts.open(Some(1), 1);
    let cap = account.left;
    assert_eq!(cap, 1_250_000);
    accounts.pay(&mut account, cap as u64);
    assert!(!accounts.is_open(&mut account), "nothing is left");
    // Something is, but less than half; it stays so however often one asks.
    accounts.at(2 * MS);
    assert!(!accounts.is_open(&mut account) && !accounts.is_open(&mut account));
    assert_eq!(account.left, 500_000);
    accounts.sent(&mut account, 1);
    assert!(accounts.is_open(&mut account), "what the scheduler was paid for");
    accounts.pay(&mut account, SENT_NS);
    assert!(!accounts.is_open(&mut account));
    accounts.at(2_500_000);
    assert!(!accounts.is_open(&mut account), "exactly half");
    accounts.at(2_500_004);
    assert!(accounts.is_open(&mut account));
}

#[test]
fn whoever_joins_again_and_again_brings_no_new_savings_and_finds_its_debts() {
    let mut accounts = accounts();
    let mut spent = 0;
    for now in (0..1000 * MS).step_by(20_000) {
        accounts.at(now);
        if accounts.user_spent(1).is_some()
            || accounts.users.iter().any(|user| user.uid == Some(1) && user.told_until > now)
        {
            continue;
        }
        let mut account = accounts.open(Some(1), 1);
        while accounts.is_open(&mut account) {
            accounts.pay(&mut account, 5_000);
            spent += 5_000;
        }
        accounts.close(&account);
        // Joining and leaving cost something, too.
        accounts.pay_late(1, 100_000);
        spent += 100_000;
    }
    let part = 100 * MS + 1_250_000;
    assert!((part - MS..part + MS).contains(&spent), "{spent}");
    // Others begin with all there can be, also in the place of one who has gone.
    let other = accounts.open(Some(2), 1);
    assert_eq!(other.left, 1_250_000);
}

/// What so many domains of each of so many users can spend in a second, spending in pieces of 5 µs whenever
/// they may.
fn spent(domains: &[usize]) -> Vec<u64> {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let mut open = Vec::new();
    for (uid, &count) in domains.iter().enumerate() {
        for _ in 0..count {
            open.push((uid, accounts.open(Some(uid as u32), 1)));
        }
    }
    let mut spent = vec![0; domains.len()];
    for now in (0..1000 * MS).step_by(20_000) {
        accounts.at(now);
        for (uid, account) in &mut open {
            while accounts.is_open(account) {
                accounts.pay(account, 5_000);
                spent[*uid] += 5_000;
            }
        }
    }
    spent
}

#[test]
fn users_share_whatever_the_number_of_their_domains() {
    let near = |spent: u64, ms: u64| spent.abs_diff(ms * MS) < ms * MS / 15;
    assert!(near(spent(&[1])[0], 900), "there is nobody else");
    let two = spent(&[1, 100]);
    assert!(near(two[0], 250) && near(two[1], 250), "{two:?}");
    let many = spent(&[1, 50, 3, 1, 1]);
    assert!(many.iter().all(|&it| near(it, 100)), "{many:?}");
}

#[test]
fn a_guaranteed_flow_has_its_notices_however_many_are_active() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let mut junk: Vec<Account> = (0..200).map(|_| accounts.open(Some(1), 1)).collect();
    let mut victim = accounts.open(Some(1), 1);
    let contract = Contract::guaranteed(20 * MS, 100 * MS).unwrap();
    accounts.reserve(&mut victim, None, Some(&contract));
    // As many of the shortest frames as 20 ms of 100 Mbit/s carry, each with a notice.
    let frames_per_ms = 200_000 / Rate::mbit(100).wire_ns(FRAME_BYTES_MIN);
    for now in (0..1000 * MS).step_by(MS as usize) {
        accounts.at(now);
        for account in &mut junk {
            while accounts.is_open(account) {
                accounts.pay(account, 5_000);
            }
        }
        assert!(accounts.is_open(&mut victim), "at {now}");
        accounts.pay(&mut victim, frames_per_ms * NOTICE_NS);
    }
    accounts.reserve(&mut victim, Some(&contract), None);
    assert_eq!((accounts.reserved_ppb, victim.reserve_ppb), (0, 0));
}

#[test]
fn what_the_scheduler_was_paid_for_is_not_paid_twice_nor_kept_for_long() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let mut account = accounts.open(Some(1), 1);
    let full = account.left;
    accounts.sent(&mut account, 1);
    accounts.pay(&mut account, 1_500);
    accounts.next_round();
    accounts.pay(&mut account, 1_000);
    assert_eq!(account.left, full - 500, "the event of the next frame is paid too");
    (0..1000).for_each(|_| accounts.sent(&mut account, 1));
    accounts.next_round();
    accounts.pay(&mut account, SENT_NS_KEPT);
    assert_eq!(account.left, full - 500);
    accounts.sent(&mut account, 1);
    accounts.next_round();
    accounts.next_round();
    accounts.pay(&mut account, 1_000);
    assert_eq!(account.left, full - 1_500);
}

#[test]
fn a_shut_account_opens_when_it_was_said_to() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let mut account = accounts.open(Some(1), 1);
    for spent in [1_300_000, 2_000_000, 100_000_000, 1_000_000_000_000] {
        while accounts.is_open(&mut account) {
            accounts.pay(&mut account, spent);
        }
        let at = accounts.opens_at(&account);
        assert!(at - accounts.now_ns <= 1_010 * MS, "no debt lasts longer: {at}");
        accounts.at(at - 1_000);
        assert!(!accounts.is_open(&mut account));
        accounts.at(at + 1_000);
        assert!(accounts.is_open(&mut account));
    }
}

#[test]
fn flooded_flows_take_together_what_one_may_and_leave_the_others_their_part() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let account = accounts.open(Some(1), 200_000_000);
    let mut flooded: Vec<Receiver> =
        (0..64).map(|_| Accounts::receiver(&account, 200_000_000)).collect();
    let mut light = Accounts::receiver(&account, 200_000_000);
    let (mut taken, mut lost) = (0, 0);
    for now in (0..1000 * MS).step_by(100_000) {
        for flow in &mut flooded {
            for _ in 0..2 {
                if accounts.receives(flow, now) {
                    accounts.pay_receiver(flow, 1_000);
                    taken += 1_000;
                }
            }
        }
        if accounts.receives(&mut light, now) {
            accounts.pay_receiver(&mut light, 100);
        } else if now > 50 * MS {
            lost += 1;
        }
    }
    assert!(taken > 150 * MS && taken < 205 * MS, "{taken}");
    assert_eq!(lost, 0, "who is not flooded loses nothing");
}

#[test]
fn a_user_who_is_alone_has_all_but_what_strangers_need_and_a_part_as_soon_as_others_come() {
    let mut accounts = Accounts::new(Rate::mbit(100), 1_000);
    let flow_manager = accounts.open(None, 0);
    let first = accounts.open(Some(7), 1);
    let second = accounts.open(Some(7), 1);
    assert_eq!(accounts.income_ppb(&first), 900_000_000);
    let other = accounts.open(Some(8), 1);
    assert_eq!(accounts.income_ppb(&first), 250_000_000);
    accounts.close(&other);
    assert_eq!(accounts.income_ppb(&second), 900_000_000);
    [first, second].iter().for_each(|account| accounts.close(account));
    let next = accounts.open(Some(9), 1);
    assert_eq!(accounts.income_ppb(&next), 900_000_000);
    accounts.close(&flow_manager);
}

#[test]
fn frames_that_the_link_cuts_from_one_packet_are_paid_for_as_if_they_were_sent_one_by_one() {
    let mut accounts = accounts();
    let mut account = accounts.open(Some(1), 1);
    let before = account.left;
    accounts.sent(&mut account, 45);
    accounts.pay(&mut account, 45 * SENT_NS);
    assert_eq!(account.left, before);
    accounts.pay(&mut account, 1);
    assert_eq!(account.left, before - 1);
}
