//! What people see, kept as text beside this file.

use base_flow::{LinkFacts, Rate};
use base_wire::Mac;
use plumb_net::{
    Bill, Contract, DropReason, Endpoints, FlowId, FlowInfo, LinkInfo, Sap, Transport,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

use super::{Screen, Step, text};
use crate::top::sample::{Report, Snapshot};

const S: u64 = 1_000_000_000;

fn flow(index: u32, slice_ms: u64, bill: Option<Bill>) -> FlowInfo {
    let contract = if slice_ms == 0 {
        Contract::BEST_EFFORT
    } else {
        Contract::guaranteed(slice_ms * 1_000_000, 100_000_000).unwrap()
    };
    let sap = |last, port| Sap::new(std::net::Ipv4Addr::new(10, 77, 0, last).into(), port);
    FlowInfo {
        flow: FlowId { index, generation: 0 },
        endpoints: Some(Endpoints {
            transport: Transport::Udp,
            local: sap(1, 40_000 + index as u16),
            remote: Some(sap(2, 5_000)),
        }),
        contract,
        link: "plumb0".into(),
        pid: 100 + index as i32,
        uid: 1000,
        bill,
    }
}

fn link(driver_ns: u64, stall_ns: u64) -> LinkInfo {
    LinkInfo {
        link: 0,
        facts: LinkFacts {
            name: "plumb0".into(),
            kind: "packet".into(),
            mac: Mac([2; 6]),
            mtu: 1500,
            mtu_max: 1500,
            unit_bytes: 1500,
            vlan: None,
            rate: Rate::mbit(100),
            frame_cost_ns: 0,
            tardiness_ns: 0,
        },
        addresses: Vec::new(),
        promised_ppm: 100_000,
        promisable_ppm: 950_000,
        bill: Bill::default(),
        stall_ns,
        driver_ns,
    }
}

/// A second in which one flow got its slice, one half of it, one slack, and one is not ours to see.
fn report() -> Report {
    let nothing = || Some(Bill::default());
    let before = Snapshot::of(
        0,
        vec![flow(1, 4, nothing()), flow(2, 6, nothing()), flow(3, 0, nothing()), flow(4, 1, None)],
        vec![link(0, 0)],
    );
    let sent = |wire_ns, slack_ns| Bill {
        tx_frames: wire_ns / 123_040,
        tx_wire_ns: wire_ns,
        tx_slack_ns: slack_ns,
        tx_cpu_ns: wire_ns / 10,
        ..Bill::default()
    };
    let behind = Bill {
        tx_periods_missed: 7,
        rx_frames: 1_000,
        rx_bytes: 1_226_000,
        rx_backlog: 12,
        drops: vec![(DropReason::NoFreeBuffer, 250)],
        ..sent(30_000_000, 0)
    };
    let after = vec![
        flow(1, 4, Some(sent(40_000_000, 0))),
        flow(2, 6, Some(behind)),
        flow(3, 0, Some(sent(500_000_000, 500_000_000))),
        flow(4, 1, None),
    ];
    let now = Snapshot::of(S, after, vec![link(120_000_000, 3_000_000)]);
    Report::between(&before, &now, |pid| format!("app{pid}"))
}

fn drawn(screen: &mut Screen) -> String {
    let mut terminal = Terminal::new(TestBackend::new(160, 18)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn flows_are_shown_with_promise_and_fulfilment() {
    let mut screen = Screen::new();
    screen.show(report());
    insta::assert_snapshot!(drawn(&mut screen));
}

#[test]
fn the_detail_pane_names_every_drop() {
    let mut screen = Screen::new();
    screen.show(report());
    screen.press(KeyCode::Down);
    screen.press(KeyCode::Enter);
    insta::assert_snapshot!(drawn(&mut screen));
}

#[test]
fn the_plain_form_says_the_same() {
    insta::assert_snapshot!(text(&report()));
}

#[test]
fn rates_are_what_changed_in_the_time_between() {
    let flows = report().flows;
    assert_eq!((flows[0].sent_mbit, flows[0].promised_mbit), (4.0, 4.0));
    assert_eq!(flows[1].fulfilment(), Some(0.5));
    assert_eq!((flows[2].slack_mbit, flows[2].fulfilment()), (50.0, None));
    assert_eq!((flows[1].received_mbit, flows[1].drops_per_s), (10.0, 250.0));
    assert!(!flows[3].visible);
    assert_eq!(flows[0].driver_cpu_pct, 0.4);
}

#[test]
fn sorting_filtering_and_pausing_do_what_they_say() {
    let mut screen = Screen::new();
    screen.show(report());
    let first = |screen: &Screen| screen.rows().first().map(|row| row.flow.clone());
    screen.press(KeyCode::Char('s'));
    assert_eq!(first(&screen).as_deref(), Some("3.0"), "most sent first");
    screen.press(KeyCode::Char('s'));
    assert_eq!(first(&screen).as_deref(), Some("4.0"), "least fulfilled first");
    for key in "/APP102".chars() {
        screen.press(KeyCode::Char(key));
    }
    assert_eq!(screen.rows().len(), 1);
    screen.press(KeyCode::Enter);
    screen.press(KeyCode::Char('p'));
    screen.show(Report::default());
    assert_eq!(first(&screen).as_deref(), Some("2.0"), "paused");
    assert_eq!(screen.press(KeyCode::Esc), Step::Continue, "drops the filter first");
    assert_eq!(screen.press(KeyCode::Esc), Step::Quit);
}
