//! An application's connection to a flow manager, and the arenas it shares with drivers.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use base_flow::{Contract, FlowId};
use base_rpc::{
    Answer, FlowInfo, FlowLayout, JoinOffer, LinkInfo, NeighbourInfo, Query, QueryReply, Refusal,
    Reply, Request, RouteInfo, StatusInfo, UserInfo,
};
use base_wire::Mac;
use rbuf_domain::{Domain, DomainError, Shape};
use rbuf_shm::{Connection, monotonic_ns};

use crate::common::Common;
use crate::flow::{Flow, News, Reopened, Shared};
use crate::joins::Joins;
use crate::rpc::Rpc;
use crate::tcp::Services;
use crate::{Error, Options};

/// Where the flow manager listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/plumb/plumb.sock";

/// The environment variable that says otherwise.
pub const SOCKET_VARIABLE: &str = "PLUMB_SOCKET";

/// Flows an application can have open at a time, if its user may and unless it asks for another number.
const FLOWS_MAX: u32 = 8192;

/// A connection to a flow manager; clones are the same connection.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    links: RwLock<Arc<[LinkInfo]>>,
    flows_max: u32,
    /// What is shared with drivers.
    joins: Joins,
    /// Whether flows have heard that the flow manager is gone.
    is_orphaned: AtomicBool,
    flows: Mutex<HashMap<FlowId, Weak<Shared>>>,
    /// What links carry since that changed: largest packet, and most that is taken at once. Held while flows
    /// are told, so that what was said last holds.
    carried: Mutex<HashMap<u16, (u16, u16)>>,
    /// What is done with answers that nobody waits for, by the tag of the call.
    expected: Mutex<HashMap<u32, Then>>,
    /// Flows that are being closed, and their memory given back; and those being opened.
    closing: AtomicUsize,
    opening: AtomicUsize,
    services: Services,
}

/// How long the daemons are given to answer. Neighbours are asked for three seconds.
const ANSWER_NS: u64 = 10_000_000_000;

/// How long a flow that is closed is given to be gone: its driver sends what it was handed before.
pub(crate) const CLOSING_NS: u64 = 40_000_000_000;

/// What is done with an answer: by the thread that reads it, which must not ask and wait there.
type Then = Box<dyn FnOnce(Result<Reply, Error>) + Send>;

impl core::fmt::Debug for Inner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Host").field("links", &self.links).finish_non_exhaustive()
    }
}

/// A connection that does not keep itself open.
pub(crate) struct WeakHost(Weak<Inner>);

impl WeakHost {
    pub(crate) fn upgrade(&self) -> Option<Host> {
        Some(Host { inner: self.0.upgrade()? })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The flow manager's socket: `$PLUMB_SOCKET` or the default.
fn socket_path() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

impl Host {
    /// The flow manager at `$PLUMB_SOCKET`, connected to once for the whole process.
    ///
    /// # Errors
    ///
    /// [`Error::NoFlowManager`].
    pub fn shared() -> Result<Self, Error> {
        static SHARED: Common<Host> = Common::new();
        // Those who have flows of a flow manager that is gone keep them; others begin anew.
        let is_there = |host: &Self| {
            host.hear_notices();
            !host.is_gone()
        };
        let deadline_ns = monotonic_ns() + ANSWER_NS;
        SHARED.get(deadline_ns, is_there, || Self::connect(&socket_path()))
    }

    /// A connection of its own to the flow manager at `socket`.
    ///
    /// # Errors
    ///
    /// [`Error::NoFlowManager`], or what it says.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        Self::connect_with(socket, |allowed| allowed.clamp(1, FLOWS_MAX))
    }

    /// As [`Self::connect`], for up to `flows_max` flows at a time on each link.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub fn connect_for(socket: &Path, flows_max: u32) -> Result<Self, Error> {
        Self::connect_with(socket, |_| flows_max)
    }

    /// With as many flows as `choose` wants, which hears how many are allowed.
    fn connect_with(socket: &Path, choose: impl FnOnce(u32) -> u32) -> Result<Self, Error> {
        // Connecting and the answer together.
        let deadline_ns = monotonic_ns() + ANSWER_NS;
        let connection = Connection::connect_within(socket, Duration::from_nanos(ANSWER_NS))
            .map_err(|source| Error::NoFlowManager { path: socket.to_path_buf(), source })?;
        let rpc = Rpc::new(connection);
        let hello = rpc.ask(Request::Hello);
        let (reply, _) = rpc.answer(hello, deadline_ns, &|_| ())?;
        let Reply::Welcome { links, flows_max } = reply else {
            return Err(Error::Protocol("no welcome".into()));
        };
        let inner = Inner {
            rpc,
            links: RwLock::new(links.into()),
            flows_max: choose(flows_max),
            joins: Joins::default(),
            is_orphaned: AtomicBool::new(false),
            flows: Mutex::default(),
            carried: Mutex::default(),
            expected: Mutex::default(),
            closing: AtomicUsize::new(0),
            opening: AtomicUsize::new(0),
            services: Services::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn downgrade(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.inner))
    }

    /// Readable when the flow manager has something to say.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inner.rpc.descriptor()
    }

    pub(crate) fn services(&self) -> &Services {
        &self.inner.services
    }

    /// The links there were when the connection was made, or when something was opened since that is for all links
    /// or for a new one.
    pub fn links(&self) -> Arc<[LinkInfo]> {
        Arc::clone(&self.inner.links.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks which links there are now.
    pub(crate) fn refresh_links(&self) -> Result<(), Error> {
        let links = self.query_links()?.into();
        *self.inner.links.write().unwrap_or_else(PoisonError::into_inner) = links;
        Ok(())
    }

    pub(crate) fn call(&self, request: Request) -> Result<Reply, Error> {
        self.call_until(request, u64::MAX, |_| ())
    }

    /// As [`Self::call`], until `deadline_ns` or as long as daemons are given; `late` is done with an answer that
    /// comes after that.
    pub(crate) fn call_until(
        &self,
        request: Request,
        deadline_ns: u64,
        late: impl FnOnce(Result<Reply, Error>) + Send + 'static,
    ) -> Result<Reply, Error> {
        let heed = |answer| self.heed(answer);
        let patience_ns = match request {
            Request::Close { .. } => CLOSING_NS,
            _ => ANSWER_NS,
        };
        let deadline_ns = deadline_ns.min(monotonic_ns() + patience_ns);
        self.inner.rpc.call_until(request, deadline_ns, &heed, |tag| {
            lock(&self.inner.expected).insert(tag, Box::new(late));
        })
    }

    /// Asks and does not wait. `then` is done with the answer by whoever reads it, who holds everybody else
    /// up meanwhile: it asks nothing that it waits for.
    pub(crate) fn call_later(
        &self,
        request: Request,
        then: impl FnOnce(Result<Reply, Error>) + Send + 'static,
    ) {
        self.inner.rpc.call_unattended(request, |tag| {
            lock(&self.inner.expected).insert(tag, Box::new(then));
        });
    }

    /// The arenas shared with the driver of `link`, joined on first use, until `deadline_ns` or as long as daemons
    /// are given.
    pub(crate) fn domain(&self, link: u16, deadline_ns: u64) -> Result<Arc<Domain>, Error> {
        let deadline_ns = deadline_ns.min(monotonic_ns() + ANSWER_NS);
        let Inner { joins, rpc, flows_max, .. } = &*self.inner;
        let offer = JoinOffer { link, flows_max: *flows_max };
        joins.domain(rpc, offer, deadline_ns, &|answer| self.heed(answer))
    }

    /// As [`Self::domain`], if it was joined before; `None` while somebody joins one, who may have to wait.
    pub(crate) fn joined_domain(&self, link: u16) -> Option<Result<Arc<Domain>, Refusal>> {
        self.inner.joins.joined_domain(link)
    }

    /// The link on which `address` is ours; the first one for "any address".
    pub(crate) fn link_of(&self, address: IpAddr) -> u16 {
        let owns =
            |link: &LinkInfo| link.addresses.iter().any(|prefix| prefix.address() == address);
        let links = self.links();
        links.iter().find(|link| owns(link)).or(links.first()).map_or(0, |link| link.link)
    }

    /// Whether we have several addresses on a link.
    pub(crate) fn has_many(&self, link: u16) -> bool {
        let links = self.links();
        links.iter().any(|info| info.link == link && info.addresses.len() > 1)
    }

    /// The arenas shared with the driver of `link` are of no use any more: it is another driver.
    pub(crate) fn forget_domain(&self, link: u16) {
        self.inner.joins.forget(link);
        // The other one says what it carries when a flow is opened.
        lock(&self.inner.carried).remove(&link);
    }

    pub(crate) fn register(&self, flow: FlowId, shared: &Arc<Shared>) {
        lock(&self.inner.flows).insert(flow, Arc::downgrade(shared));
        // Another thread may have heard of a change before this flow could.
        let carried = lock(&self.inner.carried);
        if let Some(&(mtu, unit_bytes)) = carried.get(&shared.link()) {
            shared.notify(News::Carries(mtu, unit_bytes));
        }
    }

    pub(crate) fn unregister(&self, flow: FlowId) {
        lock(&self.inner.flows).remove(&flow);
    }

    /// Closes a flow and does not wait. Its memory can be used again when the answer is here, whatever it
    /// is: the driver has let go, or is gone. If the flow manager alone is gone, there is none, and the
    /// driver may still write there.
    pub(crate) fn close_later(&self, request: Request, domain: &Arc<Domain>, layout: FlowLayout) {
        self.inner.closing.fetch_add(1, Ordering::AcqRel);
        let (domain, host) = (Arc::clone(domain), self.downgrade());
        self.call_later(request, move |reply| {
            if !matches!(reply, Err(Error::FlowManagerGone)) {
                domain.give_back(&layout);
            }
            if let Some(host) = host.upgrade() {
                host.inner.closing.fetch_sub(1, Ordering::AcqRel);
            }
        });
    }

    /// Asks for a flow and does not wait; `then` is as for [`Self::call_later`].
    pub(crate) fn open_later(
        &self,
        request: Request,
        then: impl FnOnce(Result<Reply, Error>) + Send + 'static,
    ) {
        self.inner.opening.fetch_add(1, Ordering::AcqRel);
        let host = self.downgrade();
        self.call_later(request, move |reply| {
            if let Some(host) = host.upgrade() {
                host.inner.opening.fetch_sub(1, Ordering::AcqRel);
            }
            then(reply);
        });
    }

    /// Whether the flow manager is known to be gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.inner.rpc.is_gone()
    }

    /// Hears what the flow manager says until `done`, or until `deadline_ns`.
    pub(crate) fn settle(&self, deadline_ns: u64, done: impl Fn() -> bool) -> Result<(), Error> {
        self.inner.rpc.settle(deadline_ns, &|answer| self.heed(answer), done)
    }

    /// Flows that are being closed.
    pub(crate) fn closing(&self) -> usize {
        self.inner.closing.load(Ordering::Acquire)
    }

    /// Waits until fewer than `closing` flows are being closed.
    pub(crate) fn await_closed(&self, closing: usize, deadline_ns: u64) -> Result<(), Error> {
        let deadline_ns = deadline_ns.min(monotonic_ns() + CLOSING_NS);
        self.settle(deadline_ns, || self.closing() < closing)
    }

    /// Whether flows were asked for that nobody waits for.
    pub(crate) fn is_opening(&self) -> bool {
        self.inner.opening.load(Ordering::Acquire) > 0
    }

    /// Room for a flow's channels; waits for flows that are being closed if there is none.
    pub(crate) fn lay_out(&self, domain: &Domain, shape: &Shape) -> Result<FlowLayout, Error> {
        match self.lay_out_now(domain, shape)? {
            Some(layout) => Ok(layout),
            None => {
                let found = Cell::new(None);
                let settled = || {
                    let layout = self.lay_out_now(domain, shape).transpose();
                    let is_over = layout.is_some();
                    found.set(layout);
                    is_over
                };
                self.settle(monotonic_ns() + CLOSING_NS, settled)?;
                found.into_inner().unwrap_or(Err(Error::FlowManagerGone))
            }
        }
    }

    /// As [`Self::lay_out`], but never waits: `None` if there is no room, and flows are being closed.
    pub(crate) fn lay_out_now(
        &self,
        domain: &Domain,
        shape: &Shape,
    ) -> Result<Option<FlowLayout>, Error> {
        // Asked first: what is closed meanwhile was.
        let closing = self.inner.closing.load(Ordering::Acquire) > 0;
        match domain.lay_out(shape) {
            Err(DomainError::Slots(_) | DomainError::Full) if closing => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    /// Hears what the flow manager has said; not with a lock held that heeding it takes.
    pub(crate) fn hear_notices(&self) {
        self.inner.rpc.hear(&|answer| self.heed(answer));
        if self.inner.rpc.is_gone() {
            if !self.inner.is_orphaned.swap(true, Ordering::AcqRel) {
                let flows: Vec<_> =
                    lock(&self.inner.flows).values().filter_map(Weak::upgrade).collect();
                flows.iter().for_each(|shared| shared.notify(News::Orphaned));
            }
            // Nobody else would say.
            self.check_drivers();
            let expected = std::mem::take(&mut *lock(&self.inner.expected));
            for then in expected.into_values() {
                then(Err(Error::FlowManagerGone));
            }
        }
    }

    /// Looks whether drivers are gone; their flows are lost then. The flow manager says so too, unless it is
    /// gone with them or stands.
    pub(crate) fn check_drivers(&self) {
        let gone = self.inner.joins.take_abandoned();
        for shared in gone.into_iter().flat_map(|link| self.flows_of(link)) {
            shared.notify(News::Lost("the driver of its link is gone".into()));
        }
    }

    /// Hands call-backs to the flows they are for, and answers to who expects them.
    fn heed(&self, Answer { tag, reply }: Answer) {
        if tag != 0 {
            let then = lock(&self.inner.expected).remove(&tag);
            if let Some(then) = then {
                then(match reply {
                    Reply::Refused(refusal) => Err(refusal.into()),
                    reply => Ok(reply),
                });
            }
            return;
        }
        let (flow, notice) = match reply {
            Reply::Lost { flow, reason } => (flow, News::Lost(reason)),
            Reply::Reorganised { fib } => (fib.flow, News::Fib(fib)),
            Reply::Recontracted { flow, contract } => (flow, News::Contract(contract)),
            Reply::Reopened { flow, remote, station, header, above } => {
                let remote = remote.into();
                (flow, News::Reopened(Reopened { remote, station, header, above }))
            }
            Reply::Carries { link, mtu, unit_bytes } => {
                let mut carried = lock(&self.inner.carried);
                carried.insert(link, (mtu, unit_bytes));
                for shared in self.flows_of(link) {
                    shared.notify(News::Carries(mtu, unit_bytes));
                }
                return;
            }
            _ => return,
        };
        let shared = lock(&self.inner.flows).get(&flow).and_then(Weak::upgrade);
        if let Some(shared) = shared {
            shared.notify(notice);
        }
    }

    fn flows_of(&self, link: u16) -> Vec<Arc<Shared>> {
        let flows = lock(&self.inner.flows);
        let all = flows.values().filter_map(Weak::upgrade);
        all.filter(|shared| shared.link() == link).collect()
    }

    /// Opens a flow; [`Options::open`] is the pleasant way to do it.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn open(&self, options: &Options, endpoints: base_flow::Endpoints) -> Result<Flow, Error> {
        Flow::open(self, options, endpoints, None, u64::MAX)
    }

    /// The next hop to `remote`, and our address for talking to it.
    ///
    /// # Errors
    ///
    /// No route, or the next hop does not answer.
    pub fn resolve(&self, remote: IpAddr) -> Result<(Mac, IpAddr), Error> {
        match self.call(Request::Resolve { remote })? {
            Reply::Resolved { mac, source, .. } => Ok((mac, source)),
            other => Err(unexpected(&other)),
        }
    }

    fn query(&self, query: Query) -> Result<QueryReply, Error> {
        match self.call(Request::Query(query))? {
            Reply::Found(found) => Ok(found),
            other => Err(unexpected(&other)),
        }
    }

    /// The links as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_links(&self) -> Result<Vec<LinkInfo>, Error> {
        match self.query(Query::Links)? {
            QueryReply::Links(links) => Ok(links),
            _ => Err(Error::Protocol("not links".into())),
        }
    }

    /// Gives a running flow another contract, one's own or, for who may, another's; it holds as
    /// soon as what was sent is paid for. [`Flow::adjust`] is the way for a flow that this process opened.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays then.
    pub fn adjust(&self, flow: FlowId, contract: Contract) -> Result<Contract, Error> {
        match self.call(Request::AdjustQos { flow, contract })? {
            Reply::Adjusted { contract, .. } => Ok(contract),
            other => Err(unexpected(&other)),
        }
    }

    /// All flows.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_flows(&self) -> Result<Vec<FlowInfo>, Error> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let QueryReply::Flows { flows, next } = self.query(Query::Flows { from })? else {
                return Err(Error::Protocol("not flows".into()));
            };
            all.extend(flows);
            match next {
                Some(next) if next > from => from = next,
                _ => return Ok(all),
            }
        }
    }

    /// What users have: all, or who asks if others are not to be seen.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_users(&self) -> Result<Vec<UserInfo>, Error> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let QueryReply::Users { users, next } = self.query(Query::Users { from })? else {
                return Err(Error::Protocol("not users".into()));
            };
            all.extend(users);
            match next {
                Some(next) if next > from => from = next,
                _ => return Ok(all),
            }
        }
    }

    /// The routing table.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_routes(&self) -> Result<Vec<RouteInfo>, Error> {
        match self.query(Query::Routes)? {
            QueryReply::Routes(routes) => Ok(routes),
            _ => Err(Error::Protocol("not routes".into())),
        }
    }

    /// The neighbour cache.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_neighbours(&self) -> Result<Vec<NeighbourInfo>, Error> {
        match self.query(Query::Neighbours)? {
            QueryReply::Neighbours(neighbours) => Ok(neighbours),
            _ => Err(Error::Protocol("not neighbours".into())),
        }
    }

    /// Totals.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn query_status(&self) -> Result<StatusInfo, Error> {
        match self.query(Query::Status)? {
            QueryReply::Status(status) => Ok(status),
            _ => Err(Error::Protocol("not a status".into())),
        }
    }
}

pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("unexpected answer {reply:?}"))
}
