//! What users have, for their quotas: connections, flows, and memory that they share with drivers.
//!
//! Memory is counted in two ways, and who has reached the limit in either gets no more. *Laid out* is what the
//! channels of open flows come to: the application, and drivers in its name, may write all of it without asking.
//! *Held* are real pages, as the kernel counts them: what a flow has written stays in its arena when it is closed,
//! and the next flow may lie elsewhere, until the application leaves. Pages are counted where flows were opened or
//! closed since; what flows that are open write is laid out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base_rpc::{FlowLayout, Refusal, UserInfo};
use rbuf_channel::{fifo_words, flow_block_bytes};

use crate::config::Rights;
use crate::manager::{ClientId, LinkId};

/// The arenas of an application at a driver.
pub(crate) type Share = (ClientId, LinkId);

/// Bytes that a flow lays out: its block in both control arenas, and its data areas.
pub(crate) fn flow_bytes(layout: &FlowLayout) -> u64 {
    let control = flow_block_bytes(layout.tx_words, layout.rx_words);
    2 * control + u64::from(layout.tx_data.bytes) + u64::from(layout.rx_data.bytes)
}

/// Bytes that an application lays out when it joins: events in both directions.
pub(crate) fn join_bytes(flows_max: u32) -> u64 {
    2 * 8 * fifo_words(flows_max) as u64
}

/// Connections, flows and memory of a user.
#[derive(Debug, Default)]
struct Account {
    connections: u32,
    /// Those included that are closed and not settled.
    flows: u32,
    laid_out_bytes: u64,
    /// By where it is.
    held: BTreeMap<Share, u64>,
    /// Of all together.
    held_bytes: u64,
    /// Where it is to be counted again.
    uncounted: BTreeSet<Share>,
}

impl Account {
    const fn is_empty(&self) -> bool {
        self.connections == 0 && self.flows == 0 && self.laid_out_bytes == 0
    }

    fn hold(&mut self, share: Share, bytes: u64) {
        let before = self.held.insert(share, bytes).unwrap_or(0);
        self.held_bytes = self.held_bytes + bytes - before;
    }

    fn leave(&mut self, share: Share) {
        self.held_bytes -= self.held.remove(&share).unwrap_or(0);
        self.uncounted.remove(&share);
    }
}

/// All users who have something; others cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: HashMap<u32, Account>,
}

impl Accounts {
    fn change(&mut self, uid: u32, how: impl FnOnce(&mut Account)) {
        let account = self.users.entry(uid).or_default();
        how(account);
        if account.is_empty() {
            self.users.remove(&uid);
        }
    }

    pub(crate) fn connections(&self, uid: u32) -> u32 {
        self.users.get(&uid).map_or(0, |account| account.connections)
    }

    /// Those included that are closed and not settled.
    pub(crate) fn flows(&self, uid: u32) -> u32 {
        self.users.get(&uid).map_or(0, |account| account.flows)
    }

    pub(crate) fn connect(&mut self, uid: u32) {
        self.change(uid, |account| account.connections += 1);
    }

    pub(crate) fn disconnect(&mut self, uid: u32) {
        self.change(uid, |account| account.connections -= 1);
    }

    /// The user has another flow, whose channels come to `bytes`.
    pub(crate) fn open(&mut self, uid: u32, bytes: u64) {
        self.change(uid, |account| {
            account.flows += 1;
            account.laid_out_bytes += bytes;
        });
    }

    /// Nobody uses the channels of a flow any more.
    pub(crate) fn give_back(&mut self, uid: u32, bytes: u64) {
        self.change(uid, |account| {
            account.laid_out_bytes = account.laid_out_bytes.saturating_sub(bytes);
        });
    }

    /// The user may have another flow.
    pub(crate) fn settle(&mut self, uid: u32) {
        self.change(uid, |account| account.flows = account.flows.saturating_sub(1));
    }

    /// An application joins a driver, and lays out `bytes`.
    pub(crate) fn join(&mut self, uid: u32, share: Share, bytes: u64) {
        self.change(uid, |account| {
            account.laid_out_bytes += bytes;
            account.hold(share, 0);
        });
    }

    /// What an application shared with a driver is gone, and the `bytes` that it laid out when it joined.
    pub(crate) fn leave(&mut self, uid: u32, share: Share, bytes: u64) {
        self.change(uid, |account| account.leave(share));
        self.give_back(uid, bytes);
    }

    /// What is held there may have changed.
    pub(crate) fn changed(&mut self, uid: u32, share: Share) {
        if let Some(account) = self.users.get_mut(&uid)
            && account.held.contains_key(&share)
        {
            account.uncounted.insert(share);
        }
    }

    /// Counts again what may have changed.
    pub(crate) fn count(&mut self, uid: u32, held_bytes: impl Fn(Share) -> u64) {
        if let Some(account) = self.users.get_mut(&uid) {
            for share in std::mem::take(&mut account.uncounted) {
                account.hold(share, held_bytes(share));
            }
        }
    }

    /// Whether the user may lay out `bytes` more of memory, for what `this` says.
    pub(crate) fn has_room(
        &self,
        uid: u32,
        rights: &Rights,
        bytes: u64,
        this: &str,
    ) -> Result<(), Refusal> {
        let none = Account::default();
        let account = self.users.get(&uid).unwrap_or(&none);
        let limit = rights.memory_bytes;
        let (laid_out, held) = (account.laid_out_bytes, account.held_bytes);
        let left = limit.saturating_sub(laid_out.max(held));
        if bytes <= left {
            return Ok(());
        }
        let (has, remedy) = if held > laid_out {
            (
                format!("hold {held} bytes of memory that they share with drivers"),
                "end one of them, for what its flows have written stays until then",
            )
        } else {
            (
                format!("have laid out {laid_out} bytes of memory for their flows"),
                "close flows, or give them smaller buffers",
            )
        };
        Err(Refusal::Quota(format!(
            "applications of user {uid} {has}, {limit} are allowed (`memory_bytes`), and this {this} needs {bytes}: {left} would be admitted; {remedy}"
        )))
    }

    /// What the users from `uid` on have, of whom one `is_seen`; everything they hold is counted again.
    pub(crate) fn infos(
        &mut self,
        from: u32,
        is_seen: impl Fn(u32) -> bool,
        rights: impl Fn(u32) -> Rights,
        held_bytes: impl Fn(Share) -> u64,
    ) -> (Vec<UserInfo>, Option<u32>) {
        let users = self.users.keys().copied().filter(|&uid| uid >= from && is_seen(uid));
        let mut users: Vec<u32> = users.collect();
        users.sort_unstable();
        let mut users = users.into_iter().peekable();
        let (mut infos, mut counted) = (Vec::new(), 0);
        while let Some(uid) = users.next_if(|_| counted < COUNTED_MAX) {
            let Some(account) = self.users.get_mut(&uid) else { continue };
            counted += 1 + account.held.len();
            account.uncounted = account.held.keys().copied().collect();
            self.count(uid, &held_bytes);
            let account = &self.users[&uid];
            infos.push(UserInfo {
                uid,
                connections: account.connections,
                flows: account.flows,
                laid_out_bytes: account.laid_out_bytes,
                held_bytes: account.held_bytes,
                memory_bytes: rights(uid).memory_bytes,
            });
        }
        (infos, users.next())
    }
}

/// Users and arenas that are looked at for one answer, but for those of the last user.
const COUNTED_MAX: usize = 256;
