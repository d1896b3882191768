//! Accounts: how much of the driver's time a domain and a user may take.
//!
//! Everything that a domain can make the driver do is measured, billed and paid for by that domain
//! before the next piece of work is begun. What pays depends on what was promised:
//!
//! | Work | Paid from | When that is empty |
//! |---|---|---|
//! | sending a frame, refusing one | the line time that the scheduler charges, at least the driver's cost of a frame ([`crate::Limits::frame_cost_ns`]); only what it costs beyond that is paid from the account | the flow's turn is over |
//! | receiving a frame, dropping one | the receive budget of its flow, and of its user | it is dropped and counted |
//! | events, rings, wake-ups, control messages | the domain's account | its events, its bell and its sleepers are not looked at before there is half of what can be saved up; its entries wait in its own FIFO. The flow manager is told, and leaves its requests unread as long |
//! | joining and leaving | the domain's account, and what its user has for those who leave ([`JOIN_PPB`]) | the flow manager is told, and lets nobody of that user join meanwhile |
//!
//! # What an account earns
//!
//! [`POOL_PPB`] of the thread's time, less what guaranteed flows have a claim to, in equal parts for the users that were active
//! lately, no more than [`USER_PPB_MAX`] each, or [`SOLE_POOL_PPB`] for a user whose domains are all there are; of it equal parts for the user's domains that were active
//! lately. Then, whoever else is active, for each guaranteed flow the time of an event and a wake-up
//! ([`NOTICE_NS`]) for as many of the shortest frames as its contract admits: so a guaranteed flow that
//! keeps to its contract never waits for its account. Sending itself is never stopped by an account, since the scheduler was
//! paid for it and admission has reckoned with it.
//!
//! The flow manager's own domain and the link pay nothing, for nobody else can spend in their
//! name: strangers' frames have receive budgets of their own.
//!
//! # What a user receives
//!
//! The user's rate of receiving is for all of its flows. While `n` of them were cut short lately,
//! no flow gets more than one part in `n + 1`: so flows that are flooded leave a part to
//! those that are not.

use base_flow::{Contract, Rate};
use base_rpc::Spender;
use base_wire::FRAME_BYTES_MIN;

/// Part of the thread's time, in parts per billion, that accounts share; the rest is left to frames.
const POOL_PPB: u64 = 500_000_000;
/// What accounts share at least, however much is guaranteed.
const POOL_PPB_MIN: u64 = 50_000_000;
/// Most that the domains of a user share, beside others'.
const USER_PPB_MAX: u64 = 250_000_000;
/// What accounts share where there is one user only: the rest is for strangers and the flow manager.
const SOLE_POOL_PPB: u64 = 900_000_000;
/// What a user earns for domains that leave having spent what they began with: who comes back again and again finds
/// his debts.
const JOIN_PPB: u64 = 100_000_000;
/// Most that is saved up for that: all that one domain can begin with.
const JOIN_NS_MAX: i64 = Budget::cap(USER_PPB_MAX);
/// Nobody owes more than the largest income pays in a second.
const DEBT_NS_MAX: i64 = USER_PPB_MAX as i64;
/// Time to hear an event and to wake a thread, as a rule.
const NOTICE_NS: u64 = 2_000;
/// Time to receive a short frame, as a rule.
const HEARD_NS: u64 = 2_000;
/// Who was active in this window or the one before is active.
const WINDOW_NS: u64 = 10_000_000;
/// Driver time that counts as paid to the scheduler with each frame, also of those that the link cuts from one packet, with the event and the wake-up that go with it:
/// whatever the line, a sender whose frames the scheduler let pass is not stopped by its account.
const SENT_NS: u64 = 2_000;
/// How much of that is kept until the next round, for the events of the next frames.
const SENT_NS_KEPT: u64 = 64 * SENT_NS;

/// Driver time: so many nanoseconds a second, saved up for a while.
///
/// It is charged after the fact, so it can go into debt by one piece of work, and by no more than
/// what can be saved up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    per_second: u64,
    /// How much of it may be saved up however long that takes.
    at_once: i64,
    left: i64,
    counted_at: u64,
}

impl Budget {
    /// How long a budget can be saved up, in nanoseconds: no longer than a flood of small frames that
    /// uses all of it at once takes to fill the link's ring, where others' frames would be lost.
    const SAVED_NS_MAX: u64 = 5_000_000;
    /// Time for which is earned when nobody has looked for longer: a twentieth of the time saves up all there
    /// can be in it.
    const EARNED_NS_MAX: u64 = 20 * Self::SAVED_NS_MAX;

    pub(crate) const fn new(per_second: u64) -> Self {
        Self { per_second, at_once: 0, left: Self::cap(per_second), counted_at: 0 }
    }

    const fn cap(per_second: u64) -> i64 {
        (per_second * Self::SAVED_NS_MAX / 1_000_000_000) as i64
    }

    /// So much can be used at once after a pause, however little is earned; and now. No more than whoever has
    /// the whole time can save up.
    fn save_up(&mut self, at_once_ns: u64) {
        self.at_once = at_once_ns.min(Self::SAVED_NS_MAX) as i64;
        self.left = self.left.max(self.at_once);
    }

    /// Whether anything is left at `now_ns`.
    fn is_open(&mut self, now_ns: u64) -> bool {
        self.is_open_within(now_ns, u64::MAX)
    }

    /// As [`Self::is_open`], earning no more than `limit` a second.
    fn is_open_within(&mut self, now_ns: u64, limit: u64) -> bool {
        let per_second = self.per_second.min(limit);
        let passed = now_ns.saturating_sub(self.counted_at).min(Self::EARNED_NS_MAX);
        let earned = passed * per_second / 1_000_000_000;
        if earned > 0 {
            self.left += earned as i64;
            self.counted_at = now_ns;
        }
        self.left = self.left.min(Self::cap(per_second).max(self.at_once));
        self.left > 0
    }

    pub(crate) fn pay(&mut self, spent_ns: u64) {
        self.left = (self.left - spent_ns as i64).max(-Self::cap(self.per_second));
    }
}

/// How many there were in the present window of time, and in the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Lately {
    window: u64,
    now: u32,
    before: u32,
}

impl Lately {
    fn move_to(&mut self, window: u64) {
        if self.window != window {
            self.before = if self.window + 1 == window { self.now } else { 0 };
            (self.window, self.now) = (window, 0);
        }
    }

    fn count(&mut self, window: u64) {
        self.move_to(window);
        self.now += 1;
    }

    fn number(&mut self, window: u64) -> u64 {
        self.move_to(window);
        self.now.max(self.before).into()
    }
}

/// No window was this one.
const NEVER: u64 = u64::MAX;

/// What a user shares among its domains and flows.
#[derive(Debug)]
struct User {
    /// The kernel's number of it; `None` for the flow manager itself.
    uid: Option<u32>,
    domains: u32,
    /// Its domains that were active.
    active: Lately,
    /// When it was last counted as active itself.
    counted_in: u64,
    receive: Budget,
    receive_ppb: u64,
    /// Its flows that were cut short.
    cut: Lately,
    /// What it has for domains that leave.
    joins: Savings,
    /// Until when the flow manager knows that there is nothing of that.
    told_until: u64,
}

/// What a user has for domains that leave.
#[derive(Debug)]
struct Savings {
    left: i64,
    earned_at: u64,
}

impl Savings {
    const fn new(now_ns: u64) -> Self {
        Self { left: JOIN_NS_MAX, earned_at: now_ns }
    }

    fn earn(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.earned_at).min(10_000_000_000);
        let earned = passed * JOIN_PPB / 1_000_000_000;
        if earned > 0 {
            self.left = (self.left + earned as i64).min(JOIN_NS_MAX);
            self.earned_at = now_ns;
        }
    }

    /// Takes what is owed, if anything is, for somebody else to pay.
    fn take_debt(&mut self, now_ns: u64) -> Option<i64> {
        self.earn(now_ns);
        (self.left < 0).then(|| std::mem::take(&mut self.left))
    }

    fn pay(&mut self, now_ns: u64, spent: i64) {
        self.earn(now_ns);
        self.left = (self.left - spent).max(-DEBT_NS_MAX);
    }

    /// When nothing is owed any more.
    const fn paid_at(&self) -> u64 {
        let owed = if self.left < 0 { self.left.unsigned_abs() } else { 0 };
        self.earned_at.saturating_add(owed * (1_000_000_000 / JOIN_PPB))
    }
}

/// What a domain may take of the driver's time.
#[derive(Debug)]
pub(crate) struct Account {
    user: u32,
    left: i64,
    earned_at: u64,
    /// What it earns for its guaranteed flows.
    reserve_ppb: u64,
    counted_in: u64,
    /// Nothing is done for it before it has earned enough again.
    shut: bool,
    /// What the scheduler was paid for in the round of this number.
    sent_ns: u64,
    sent_in: u64,
    /// Until when the flow manager knows that it is shut.
    told_until: u64,
    /// What it began with.
    begun: i64,
}

impl Account {
    /// Whether nothing was to be done for the domain when that was last asked.
    pub(crate) const fn is_shut(&self) -> bool {
        self.shut
    }
}

/// A flow's part in its user's receiving.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) user: u32,
    budget: Budget,
    cut_in: u64,
}

impl Receiver {
    /// After a pause it may receive so many short frames at once, however little its rate is, so that a burst
    /// of them is not cut short by what one pays for a steady flow.
    pub(crate) fn save_up(&mut self, frames: u32) {
        self.budget.save_up(u64::from(frames) * HEARD_NS);
    }
}

/// All users of a driver.
#[derive(Debug)]
pub(crate) struct Accounts {
    users: Vec<User>,
    /// Users that were active.
    active: Lately,
    /// Users that have domains.
    present: u32,
    /// Part of the thread that guaranteed flows have a claim to.
    reserved_ppb: u64,
    /// Part of the line's time that is the driver's time, of the shortest frames.
    notice_ppb: u64,
    frame_ppb: u64,
    now_ns: u64,
    round: u64,
}

impl Accounts {
    /// Of a line of `rate` whose driver takes `frame_cost_ns` for a frame.
    pub(crate) fn new(rate: Rate, frame_cost_ns: u64) -> Self {
        let shortest_ns = rate.wire_ns(FRAME_BYTES_MIN).max(frame_cost_ns).max(1);
        let part = |ns: u64| (ns * 1_000_000_000 / shortest_ns).min(1_000_000_000);
        Self {
            users: Vec::new(),
            active: Lately::default(),
            present: 0,
            reserved_ppb: 0,
            notice_ppb: part(NOTICE_NS),
            frame_ppb: part(frame_cost_ns),
            now_ns: 0,
            round: 0,
        }
    }

    const fn window(&self) -> u64 {
        self.now_ns / WINDOW_NS
    }

    /// It is `now_ns`.
    pub(crate) fn at(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// A round is over: what was paid to the scheduler in it is good for one more.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
    }

    /// An account of `uid`, whose flows may receive for `receive_ppb`; `None` is the flow manager.
    pub(crate) fn open(&mut self, uid: Option<u32>, receive_ppb: u32) -> Account {
        // No budget but its flows' own is between strangers and the flow manager.
        let receive_ppb = if uid.is_some() { u64::from(receive_ppb) } else { 1 << 36 };
        // Who was here before finds what he owes.
        let known = self.users.iter().position(|user| user.uid == uid);
        let free = || self.users.iter().position(|user| user.domains == 0);
        let index = known.or_else(free).unwrap_or(self.users.len());
        if index == self.users.len() {
            self.users.push(User {
                uid,
                domains: 0,
                active: Lately::default(),
                counted_in: NEVER,
                receive: Budget::new(receive_ppb),
                receive_ppb,
                cut: Lately::default(),
                joins: Savings::new(self.now_ns),
                told_until: 0,
            });
        }
        let user = &mut self.users[index];
        if user.uid != uid {
            (user.joins, user.told_until) = (Savings::new(self.now_ns), 0);
        }
        if user.uid != uid || user.receive_ppb != receive_ppb {
            user.receive = Budget::new(receive_ppb);
        }
        (user.uid, user.receive_ppb) = (uid, receive_ppb);
        user.domains += 1;
        self.present += u32::from(uid.is_some() && user.domains == 1);
        let mut account = Account {
            user: index as u32,
            left: 0,
            earned_at: self.now_ns,
            reserve_ppb: 0,
            counted_in: NEVER,
            shut: false,
            sent_ns: 0,
            sent_in: 0,
            told_until: 0,
            begun: 0,
        };
        account.begun = Budget::cap(self.income_ppb(&account));
        account.left = self.users[index].joins.take_debt(self.now_ns).unwrap_or(account.begun);
        account
    }

    pub(crate) fn close(&mut self, account: &Account) {
        let user = &mut self.users[account.user as usize];
        user.domains -= 1;
        self.present -= u32::from(user.uid.is_some() && user.domains == 0);
        user.joins.pay(self.now_ns, (account.begun - account.left).max(0));
    }

    /// Whose account it is; `None` is the flow manager.
    pub(crate) fn uid(&self, account: &Account) -> Option<u32> {
        self.users[account.user as usize].uid
    }

    /// The driver has worked for so long for a domain of `uid` that is gone.
    pub(crate) fn pay_late(&mut self, uid: u32, spent_ns: u64) {
        if let Some(user) = self.users.iter_mut().find(|user| user.uid == Some(uid)) {
            user.joins.pay(self.now_ns, spent_ns.min(DEBT_NS_MAX as u64) as i64);
        }
    }

    /// Until when nothing is to be done for the domain at the word of the flow manager, if it does not know yet.
    pub(crate) fn domain_spent(&mut self, account: &mut Account) -> Option<u64> {
        if account.told_until > self.now_ns || self.is_open(account) {
            return None;
        }
        account.told_until = self.opens_at(account).min(self.now_ns + Spender::NS_MAX);
        Some(account.told_until)
    }

    /// Until when nobody of `uid` is to join, if the flow manager does not know yet.
    pub(crate) fn user_spent(&mut self, uid: u32) -> Option<u64> {
        let now_ns = self.now_ns;
        let user = self.users.iter_mut().find(|user| user.uid == Some(uid))?;
        user.joins.earn(now_ns);
        if user.told_until > now_ns || user.joins.left >= 0 {
            return None;
        }
        user.told_until = user.joins.paid_at().min(now_ns + Spender::NS_MAX);
        Some(user.told_until)
    }

    /// The domain's guaranteed flows have `contract` instead of `before`.
    pub(crate) fn reserve(
        &mut self,
        account: &mut Account,
        before: Option<&Contract>,
        contract: Option<&Contract>,
    ) {
        let density = |contract: Option<&Contract>| {
            contract.map_or(0, |it| it.slice_ns * 1_000_000 / it.period_ns.max(1))
        };
        let (old, new) = (density(before), density(contract));
        let part = |density: u64, of: u64| density * of / 1_000_000;
        let frame = self.frame_ppb + self.notice_ppb;
        self.reserved_ppb = (self.reserved_ppb + part(new, frame)).saturating_sub(part(old, frame));
        account.reserve_ppb = (account.reserve_ppb + part(new, self.notice_ppb))
            .saturating_sub(part(old, self.notice_ppb));
    }

    /// What an account earns at present.
    fn income_ppb(&mut self, account: &Account) -> u64 {
        let window = self.window();
        let (pool, max) = match self.present {
            ..=1 => (SOLE_POOL_PPB, SOLE_POOL_PPB),
            _ => (POOL_PPB, USER_PPB_MAX),
        };
        let pool = pool.saturating_sub(self.reserved_ppb).max(POOL_PPB_MIN);
        let users = self.active.number(window).max(1);
        let domains = self.users[account.user as usize].active.number(window).max(1);
        (pool / users).min(max) / domains + account.reserve_ppb
    }

    fn earn(&mut self, account: &mut Account) -> i64 {
        let income = self.income_ppb(account);
        let cap = Budget::cap(income);
        // However deep a debt is, it does not take longer to pay than this.
        let passed = self.now_ns.saturating_sub(account.earned_at).min(10_000_000_000);
        let earned = passed * income / 1_000_000_000;
        if earned > 0 {
            account.left = (account.left + earned as i64).min(cap);
            account.earned_at = self.now_ns;
        }
        cap
    }

    /// Whether something may be done for the domain now: from what the scheduler was paid, or from the account.
    pub(crate) fn is_open(&mut self, account: &mut Account) -> bool {
        self.turn(account);
        if account.sent_ns > 0 || account.left > 0 && !account.shut {
            return true;
        }
        let cap = self.earn(account);
        account.shut = account.left <= if account.shut { cap / 2 } else { 0 };
        !account.shut
    }

    /// When something will be done again for a domain that is shut.
    pub(crate) fn opens_at(&mut self, account: &Account) -> u64 {
        let income = self.income_ppb(account).max(1);
        let missing = (Budget::cap(income) / 2 + 1 - account.left).max(1) as u64;
        account.earned_at.saturating_add((missing * 1_000_000_000).div_ceil(income))
    }

    /// The scheduler was paid for so many frames of the domain.
    pub(crate) fn sent(&self, account: &mut Account, frames: u64) {
        self.turn(account);
        account.sent_ns += frames * SENT_NS;
    }

    /// Forgets what the domain has sent before the last round.
    fn turn(&self, account: &mut Account) {
        match self.round - account.sent_in {
            0 => return,
            1 => account.sent_ns = account.sent_ns.min(SENT_NS_KEPT),
            _ => account.sent_ns = 0,
        }
        account.sent_in = self.round;
    }

    /// The driver has worked for the domain for so long.
    pub(crate) fn pay(&mut self, account: &mut Account, spent_ns: u64) {
        self.turn(account);
        let due_ns = spent_ns.saturating_sub(account.sent_ns);
        account.sent_ns -= spent_ns - due_ns;
        let window = self.window();
        let user = &mut self.users[account.user as usize];
        if due_ns == 0 || user.uid.is_none() {
            return;
        }
        if account.counted_in != window {
            account.counted_in = window;
            user.active.count(window);
            if user.counted_in != window {
                user.counted_in = window;
                self.active.count(window);
            }
        }
        // What was saved up while fewer were active is not kept.
        let saved = account.left.min(Budget::cap(self.income_ppb(account)));
        account.left = (saved - due_ns as i64).max(-DEBT_NS_MAX);
    }

    /// A flow of the account's user that may receive for `rx_cpu_ppb`.
    pub(crate) fn receiver(account: &Account, rx_cpu_ppb: u32) -> Receiver {
        Receiver { user: account.user, budget: Budget::new(rx_cpu_ppb.into()), cut_in: NEVER }
    }

    /// Whether a frame for the flow is taken in at all.
    pub(crate) fn receives(&mut self, flow: &mut Receiver, now_ns: u64) -> bool {
        let window = now_ns / WINDOW_NS;
        let user = &mut self.users[flow.user as usize];
        let part = match user.cut.number(window) {
            0 => u64::MAX,
            cut => user.receive_ppb / (cut + 1),
        };
        if flow.budget.is_open_within(now_ns, part) && user.receive.is_open(now_ns) {
            return true;
        }
        if flow.cut_in != window {
            flow.cut_in = window;
            user.cut.count(window);
        }
        false
    }

    /// The driver has received for the flow for so long.
    pub(crate) fn pay_receiver(&mut self, flow: &mut Receiver, spent_ns: u64) {
        flow.budget.pay(spent_ns);
        self.users[flow.user as usize].receive.pay(spent_ns);
    }
}

#[cfg(test)]
mod tests;
