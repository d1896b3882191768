//! Who gets a connection when many users want all there are.

use std::collections::HashMap;

use flowman_core::{ClientId, Config, FlowManager, Rights};
use proptest::collection::vec;
use proptest::prelude::*;

const ALL: u32 = 2000;

/// Users who want all there is.
const GREEDY: u32 = 90;

fn manager() -> FlowManager {
    let mut manager = FlowManager::new(Config::default(), [7; 16]);
    manager.set_connections_max(ALL);
    manager
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn however_many_connections_users_want_each_has_no_more_than_are_left_and_a_newcomer_gets_one(
        steps in vec((0..GREEDY, any::<u16>()), 5_000..6_000),
    ) {
        let mut manager = manager();
        let mut held: Vec<(ClientId, u32)> = Vec::new();
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for (step, (uid, chance)) in steps.into_iter().enumerate() {
            let client = ClientId(step as u64);
            // Now and then somebody leaves.
            if chance % 64 == 0 && !held.is_empty() {
                let (gone, of) = held.swap_remove(usize::from(chance / 64) % held.len());
                manager.client_left(gone);
                *counts.entry(of).or_default() -= 1;
            }
            let (count, free) = (counts.entry(uid).or_default(), ALL - held.len() as u32);
            let joined = manager.client_joined(client, 1, uid).is_ok();
            prop_assert_eq!(joined, *count < Rights::ORDINARY.connections_max && *count < free);
            *count += u32::from(joined);
            held.extend(joined.then_some((client, uid)));
        }
        let free = ALL - held.len() as u32;
        prop_assert!(free >= 1);
        for newcomer in 0..u64::from(free) {
            let (client, uid) = (ClientId(1 << 32 | newcomer), 5_000 + newcomer as u32);
            prop_assert!(manager.client_joined(client, 1, uid).is_ok());
        }
    }
}

#[test]
fn a_user_alone_has_what_his_rights_are_and_no_more_than_are_left_for_others() {
    for (uid, expected) in [(1000, Rights::ORDINARY.connections_max), (0, ALL)] {
        let mut manager = manager();
        let joined =
            (0..2 * ALL).filter(|&id| manager.client_joined(ClientId(id.into()), 1, uid).is_ok());
        assert_eq!(joined.count() as u32, expected.min(ALL / 2));
        assert_eq!(manager.client_joined(ClientId(1 << 32), 1, 1001), Ok(()));
    }
}
