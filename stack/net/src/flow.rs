//! A flow: its channels, its name, and what the flow manager has to say about it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId, Rate};
use base_rpc::{FlowLayout, Refusal, Reply, Request, TimeWait};
use base_wire::Mac;
use rbuf_domain::{Domain, Shape};
use rbuf_shm::{ShmData, ShmWords, monotonic_ns};
use stack_layer::{Device, Layer as _};

use crate::host::unexpected;
use crate::sleep::{self, Cause, Sleepers};
use crate::tcp::Service;
use crate::{Error, Host, Options};

/// How long a sleeper waits before it asks whether the daemons have news.
pub(crate) const NEWS_NS: u64 = 500_000_000;

/// The bottom of an application's stack.
pub type FlowDevice = Device<ShmWords, ShmData>;

/// An open flow. Closed when dropped.
#[derive(Debug)]
pub struct Flow {
    pub(crate) shared: Arc<Shared>,
    device: Option<FlowDevice>,
    fib: Fib,
}

/// What outlives the layers: the flow's name, its memory, and news about it.
#[derive(Debug)]
pub(crate) struct Shared {
    host: Host,
    domain: Arc<Domain>,
    layout: FlowLayout,
    link: u16,
    /// The largest packet that its buffers are made for.
    mtu_max: u16,
    /// Transmit and receive data.
    pub(crate) areas: (ShmData, ShmData),
    id: FlowId,
    /// Counts the driver writes, on which threads of this application sleep.
    pub(crate) tx_words: ShmWords,
    pub(crate) rx_words: ShmWords,
    sleepers: Sleepers,
    /// Whether there is news.
    news: AtomicBool,
    latest: Mutex<Latest>,
    strangers: Mutex<Strangers>,
    closed: AtomicBool,
}

/// Frames that were thrown away because they were from strangers.
#[derive(Debug, Default)]
struct Strangers {
    /// Those that the flow manager was told of, and was not.
    told: u64,
    untold: u64,
}

/// What the flow manager has to say about a flow.
#[derive(Debug)]
pub(crate) enum News {
    /// It is gone, and why.
    Lost(String),
    /// Format its packets so from now on.
    Fib(Fib),
    /// Somebody else changed its contract.
    Contract(Contract),
    /// Its link carries packets of so many bytes, and takes so many at once.
    Carries(u16, u16),
    /// A SYN for a listener that no driver delivers.
    Reopened(Reopened),
    /// The flow manager is gone. The flow is not.
    Orphaned,
}

/// A SYN that opens a connection anew which the flow manager remembers.
#[derive(Debug)]
pub(crate) struct Reopened {
    pub(crate) remote: SocketAddr,
    pub(crate) station: Mac,
    /// TCP header and options.
    pub(crate) header: Vec<u8>,
    /// Where the new connection's numbers begin at least.
    pub(crate) above: u32,
}

/// Those that wait to be looked at.
#[derive(Debug, Default)]
struct Calls(Vec<Reopened>);

impl Calls {
    /// More than a driver lets through at once; who is one too many asks again.
    const MAX: usize = 4096;

    /// Whether there is room for another.
    fn add(&mut self, call: Reopened) -> bool {
        let has_room = self.0.len() < Self::MAX;
        if has_room {
            self.0.push(call);
        }
        has_room
    }
}

/// What of it is new to whoever works on the flow.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) fib: Option<Fib>,
    pub(crate) contract: Option<Contract>,
    pub(crate) reopened: Vec<Reopened>,
    /// Whether the flow manager is gone.
    pub(crate) is_orphaned: bool,
}

#[derive(Debug)]
struct Latest {
    is_orphaned: bool,
    lost: Option<String>,
    fib: Fib,
    is_fib_new: bool,
    contract: Contract,
    is_contract_new: bool,
    calls: Calls,
    tardiness_ns: u64,
    time_wait: Option<TimeWait>,
}

/// A flow that is laid out, and that nobody has heard of.
///
/// Its channels are ready before the driver hears of them: the first packet can be queued as soon as the
/// answer is here, and what arrives meanwhile finds buffers.
pub(crate) struct Prepared {
    host: Host,
    domain: Arc<Domain>,
    layout: FlowLayout,
    link: u16,
    /// The largest packet that it has room for.
    mtu_max: u16,
    device: FlowDevice,
    areas: (ShmData, ShmData),
    words: (ShmWords, ShmWords),
    contract: Contract,
    endpoints: Endpoints,
}

impl Prepared {
    /// With `headers`, packets are formed from so many headers and payload that lies elsewhere in the transmit
    /// area.
    fn new(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
        link: u16,
        deadline_ns: u64,
    ) -> Result<Self, Error> {
        let domain = host.domain(link, deadline_ns)?;
        if host.links().iter().all(|info| info.link != link) {
            host.refresh_links()?;
        }
        let (mtu_max, shape) = shape(host, options, headers, link, &domain)?;
        let layout = host.lay_out(&domain, &shape)?;
        Self::on(host, options, endpoints, headers, (link, mtu_max), domain, layout)
    }

    /// As [`Self::new`], but asks nobody: `None` if there is no room before others are closed.
    pub(crate) fn now(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: u16,
    ) -> Result<Option<Self>, Error> {
        let link = host.link_of(endpoints.local.address);
        let Some(domain) = host.joined_domain(link).transpose()? else { return Ok(None) };
        let headers = Some(headers);
        let (mtu_max, shape) = shape(host, options, headers, link, &domain)?;
        let Some(layout) = host.lay_out_now(&domain, &shape)? else { return Ok(None) };
        Self::on(host, options, endpoints, headers, (link, mtu_max), domain, layout).map(Some)
    }

    fn on(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
        (link, mtu_max): (u16, u16),
        domain: Arc<Domain>,
        layout: FlowLayout,
    ) -> Result<Self, Error> {
        let made = domain.ends(&layout).map_err(Error::from).and_then(|ends| {
            let areas = (ends.tx_data, ends.rx_data);
            let words = (ends.tx.peer_words(), ends.rx.peer_words());
            let ends = (ends.tx, ends.rx);
            let device = match headers {
                Some(headers) => {
                    let mut device = Device::with_headers(ends, areas.clone(), mtu_max, headers);
                    device.offer_buffers(options.first_buffers(mtu_max))?;
                    device
                }
                None => Device::new(ends, areas.clone(), mtu_max)?,
            };
            Ok((device, areas, words))
        });
        let (device, areas, words) = made.inspect_err(|_| domain.give_back(&layout))?;
        let (host, contract) = (host.clone(), options.contract);
        Ok(Self { host, domain, layout, link, mtu_max, device, areas, words, contract, endpoints })
    }

    fn request(&self) -> Request {
        Request::Open {
            link: self.link,
            contract: self.contract,
            layout: self.layout,
            endpoints: Some(self.endpoints),
        }
    }

    /// Asks for it, until `deadline_ns`. What is opened later is closed at once.
    fn open(self, deadline_ns: u64) -> Result<Flow, Error> {
        let (host, request) = (self.host.clone(), self.request());
        let prepared = Arc::new(Mutex::new(Some(self)));
        let late = Arc::clone(&prepared);
        let take =
            |from: &Mutex<Option<Self>>| from.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reply = host.call_until(request, deadline_ns, move |reply| {
            if let Some(prepared) = take(&late) {
                drop(prepared.opened(reply));
            }
        });
        match reply {
            Err(Error::TimedOut) => Err(Error::TimedOut),
            reply => take(&prepared).ok_or(Error::TimedOut)?.opened(reply),
        }
    }

    /// Asks for it and does not wait; `then` gets it from whoever reads the answer, who must not ask anything
    /// and wait for it there.
    pub(crate) fn open_later(self, then: impl FnOnce(Result<Flow, Error>) + Send + 'static) {
        let (host, request) = (self.host.clone(), self.request());
        host.open_later(request, move |reply| then(self.opened(reply)));
    }

    /// What the flow manager makes of it.
    fn opened(self, reply: Result<Reply, Error>) -> Result<Flow, Error> {
        let (id, fib, contract, tardiness_ns) = match reply {
            Ok(Reply::Opened { flow, fib: Some(fib), contract, tardiness_ns }) => {
                (flow, fib, contract, tardiness_ns)
            }
            // The driver may have heard of it, and use the memory.
            Err(Error::FlowManagerGone) => return Err(Error::FlowManagerGone),
            other => {
                self.domain.give_back(&self.layout);
                return Err(other.map_or_else(|error| error, |reply| unexpected(&reply)));
            }
        };
        let (tx_words, rx_words) = self.words;
        // The driver may be another one than when the links were asked for.
        let fib = Fib { mtu: fib.mtu.min(self.mtu_max), ..fib };
        let mut device = self.device;
        device.reorganise(&fib);
        let latest = Latest {
            is_orphaned: false,
            lost: None,
            fib,
            is_fib_new: false,
            contract,
            is_contract_new: false,
            calls: Calls::default(),
            tardiness_ns,
            time_wait: None,
        };
        let shared = Arc::new(Shared {
            host: self.host,
            domain: self.domain,
            layout: self.layout,
            link: self.link,
            mtu_max: self.mtu_max,
            areas: self.areas,
            id,
            tx_words,
            rx_words,
            sleepers: Sleepers::default(),
            news: AtomicBool::new(false),
            latest: Mutex::new(latest),
            strangers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        shared.host.register(id, &shared);
        Ok(Flow { shared, device: Some(device), fib })
    }
}

/// How often a flow is asked for that is to be had on another link, or when others are closed.
const OPENINGS_MAX: usize = 8;

/// The largest packet of a link, which may carry less now, and what the channels of a flow there are like.
fn shape(
    host: &Host,
    options: &Options,
    headers: Option<u16>,
    link: u16,
    domain: &Domain,
) -> Result<(u16, Shape), Error> {
    let mtu_max = || {
        let links = host.links();
        links.iter().find(|info| info.link == link).map(|info| info.facts.mtu_max)
    };
    let mtu = mtu_max().ok_or(Refusal::NoLink { link })?;
    let shape = match headers {
        Some(headers) => options.stream_shape(mtu, headers, domain.is_roomy()),
        None => options.datagram_shape(mtu),
    };
    Ok((mtu, shape))
}

impl Flow {
    /// As [`Self::open_on`], on the link that the local end decides.
    pub(crate) fn open(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
        deadline_ns: u64,
    ) -> Result<Self, Error> {
        Self::open_on(host, options, endpoints, headers, None, deadline_ns)
    }

    /// Opens a flow, on `link` or where the local end is, until `deadline_ns`; with `headers`, packets are formed from so many headers and payload
    /// that lies elsewhere in the transmit area.
    pub(crate) fn open_on(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
        link: Option<u16>,
        deadline_ns: u64,
    ) -> Result<Self, Error> {
        let mut link = link.unwrap_or_else(|| host.link_of(endpoints.local.address));
        for again in 0..OPENINGS_MAX {
            // What this process is giving back is not in its own way.
            let closing = host.closing();
            let prepared = Prepared::new(host, options, endpoints, headers, link, deadline_ns)?;
            match prepared.open(deadline_ns) {
                Err(Error::Refused(Refusal::OtherLink { link: other, .. })) => link = other,
                Err(Error::Refused(Refusal::NotJoined { link })) => host.forget_domain(link),
                Err(Error::Refused(
                    Refusal::OverAllocation { .. } | Refusal::Quota(_) | Refusal::Policy(_),
                )) if closing > 0 && again + 1 < OPENINGS_MAX => {
                    host.await_closed(closing, deadline_ns)?;
                }
                result => return result,
            }
        }
        Err(Error::Protocol("the flow manager sends us from link to link".into()))
    }

    /// The flow's name.
    pub fn id(&self) -> FlowId {
        self.shared.id
    }

    /// How to format its packets.
    pub const fn fib(&self) -> &Fib {
        &self.fib
    }

    /// The rate of its link, as far as is known.
    pub(crate) fn rate(&self) -> Option<Rate> {
        let links = self.shared.host.links();
        links.iter().find(|info| info.link == self.shared.link).map(|info| info.facts.rate)
    }

    /// The contract as admitted.
    pub fn contract(&self) -> Contract {
        // Somebody else may have changed it.
        self.shared.host.hear_notices();
        self.known_contract()
    }

    /// As [`Self::contract`], as far as this process has heard.
    pub(crate) fn known_contract(&self) -> Contract {
        self.shared.contract()
    }

    /// How late beyond its deadline a guaranteed frame can be, in nanoseconds.
    pub fn tardiness_ns(&self) -> u64 {
        self.shared.latest().tardiness_ns
    }

    /// The bottom of the stack, to build layers on; `None` if it was taken before.
    pub const fn take_device(&mut self) -> Option<FlowDevice> {
        self.device.take()
    }

    /// Tells the driver what it asked to be told, after a batch of sends and receives.
    pub fn kick(&self, device: &mut FlowDevice) {
        self.shared.kick(device);
    }

    /// Sleeps until a packet has arrived on `device`, for `timeout` at most; `false` if none has. Call-backs of the flow manager are heard meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the flow was closed by the driver or the flow manager.
    pub fn wait(&self, device: &mut FlowDevice, timeout: Duration) -> Result<bool, Error> {
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = monotonic_ns().saturating_add(timeout_ns);
        self.shared.kick(device);
        loop {
            let call = self.shared.calls();
            self.shared.news()?;
            let Some(seen) = device.rx().await_published(1)? else { return Ok(true) };
            let now_ns = monotonic_ns();
            let soon_ns = until_ns.min(now_ns.saturating_add(NEWS_NS));
            let woken = self.shared.sleep(&self.shared.rx_words, seen, call, soon_ns);
            device.rx().awake();
            self.shared.host.hear_notices();
            self.shared.host.check_drivers();
            self.shared.news()?;
            if woken || soon_ns == until_ns {
                return Ok(woken);
            }
        }
    }

    /// Asks for another contract; it holds as soon as what was sent is paid for.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays then.
    pub fn adjust(&mut self, contract: Contract) -> Result<Contract, Error> {
        self.shared.adjust(contract)
    }

    /// Gives the flow other ends.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the flow has no ends then.
    pub fn attach(&mut self, endpoints: Endpoints) -> Result<&Fib, Error> {
        self.fib = self.shared.attach(endpoints)?;
        Ok(&self.fib)
    }

    /// The flow was given other ends by [`Shared::attach`].
    pub(crate) const fn set_fib(&mut self, fib: Fib) {
        self.fib = fib;
    }

    /// Closes the flow and returns what it used altogether.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`], or [`Error::Lost`] if it was closed before.
    pub fn close(self) -> Result<Bill, Error> {
        self.shared.close()
    }
}

impl Shared {
    pub(crate) const fn id(&self) -> FlowId {
        self.id
    }

    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }

    /// Gives the flow other ends; whoever formats its packets is to heed how.
    pub(crate) fn attach(&self, endpoints: Endpoints) -> Result<Fib, Error> {
        let request = Request::Attach { flow: self.id, endpoints, waits: true };
        match self.host.call(request)? {
            Reply::Attached { fib } => {
                let mut latest = self.latest();
                latest.fib = Fib { mtu: fib.mtu.min(self.mtu_max), ..fib };
                Ok(latest.fib)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the flow other ends, and does not wait, for a neighbour neither. `then` hears what became of that, from
    /// whoever reads the answer, when the way to format packets is news of this flow; if it was refused, the ends are
    /// what they were.
    pub(crate) fn turn(
        self: &Arc<Self>,
        endpoints: Endpoints,
        then: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let shared = Arc::clone(self);
        let request = Request::Attach { flow: self.id, endpoints, waits: false };
        self.host.call_later(request, move |reply| {
            then(match reply {
                Ok(Reply::Attached { fib }) => {
                    shared.notify(News::Fib(fib));
                    Ok(())
                }
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            });
        });
    }

    /// Takes the flow's ends away, and does not wait.
    pub(crate) fn detach(&self) {
        self.host.call_later(Request::Detach { flow: self.id }, |_| ());
    }

    /// So many more frames were thrown away because they were from strangers. The flow manager is told when they are
    /// twice as many as it knows of: a flood is no flood of messages.
    pub(crate) fn count_strangers(&self, frames: u64) {
        let mut strangers = self.strangers();
        strangers.untold += frames;
        if strangers.untold >= strangers.told {
            drop(strangers);
            self.tell_strangers();
        }
    }

    /// Tells the flow manager of all of them.
    pub(crate) fn tell_strangers(&self) {
        let mut strangers = self.strangers();
        let frames = std::mem::take(&mut strangers.untold);
        strangers.told += frames;
        drop(strangers);
        if frames > 0 {
            self.host.call_later(Request::Strangers { flow: self.id, frames }, |_| ());
        }
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place among the flows of the domain.
    pub(crate) const fn slot(&self) -> u32 {
        self.layout.slot
    }

    /// Who looks after the flow while its application computes.
    pub(crate) fn service(&self) -> std::io::Result<Arc<Service>> {
        self.host.services().of(&self.host, self.link, &self.domain)
    }

    pub(crate) fn kick(&self, device: &mut FlowDevice) {
        let [tx, rx] = device.notice();
        if tx.post || rx.post {
            self.domain.post(self.layout.slot);
        }
    }

    /// How many more flows there can be where it is.
    pub(crate) fn slots_left(&self) -> usize {
        self.domain.slots_left()
    }

    /// The link it is on.
    pub(crate) const fn link(&self) -> u16 {
        self.link
    }

    /// What the flow manager is to say in place of a connection when the flow is closed.
    pub(crate) fn leave(&self, time_wait: TimeWait) {
        self.latest().time_wait = Some(time_wait);
    }

    /// Packets of up to `mtu` bytes get to `remote`: for whoever sends there next. Does not wait.
    pub(crate) fn tell_path(&self, remote: IpAddr, mtu: u16) {
        self.host.call_later(Request::PathCarries { flow: self.id, remote, mtu }, |_| ());
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for another contract.
    pub(crate) fn adjust(&self, contract: Contract) -> Result<Contract, Error> {
        match self.host.call(Request::AdjustQos { flow: self.id, contract })? {
            Reply::Adjusted { contract, tardiness_ns } => {
                self.latest().tardiness_ns = tardiness_ns;
                self.set_contract(contract);
                Ok(contract)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The contract, as far as this process has heard.
    pub(crate) fn contract(&self) -> Contract {
        self.latest().contract
    }

    fn set_contract(&self, contract: Contract) {
        let mut latest = self.latest();
        (latest.contract, latest.is_contract_new) = (contract, true);
        self.news.store(true, Ordering::Release);
    }

    /// News from the flow manager; whoever sleeps is woken to hear it.
    pub(crate) fn notify(&self, news: News) {
        let mut latest = self.latest();
        let fib = latest.fib;
        match news {
            News::Fib(fib) => latest.set_fib(fib, self.mtu_max),
            News::Carries(mtu, unit_bytes) if (mtu, unit_bytes) == (fib.mtu, fib.unit_bytes) => {
                return;
            }
            News::Carries(mtu, unit_bytes) => {
                latest.set_fib(Fib { mtu, unit_bytes, ..fib }, self.mtu_max);
            }
            News::Lost(reason) => drop(latest.lost.get_or_insert(reason)),
            News::Orphaned => latest.is_orphaned = true,
            News::Reopened(call) => {
                if !latest.calls.add(call) {
                    return;
                }
            }
            // Nobody waits for this.
            News::Contract(contract) => {
                drop(latest);
                return self.set_contract(contract);
            }
        }
        drop(latest);
        self.news.store(true, Ordering::Release);
        // Whoever is in no call has somebody who looks after it.
        self.host.services().list(self.link, self.layout.slot);
        self.call();
    }

    /// Calls so far: see [`Self::sleep`].
    pub(crate) fn calls(&self) -> u32 {
        self.sleepers.calls()
    }

    /// Wakes whoever sleeps or is about to.
    pub(crate) fn call(&self) {
        self.sleepers.call(&[&self.tx_words[0], &self.rx_words[0]]);
    }

    /// What ends a sleep for the driver's count `words`, of which `seen` was seen, with so many calls.
    pub(crate) fn cause<'a>(&'a self, words: &'a ShmWords, seen: u64, call: u32) -> Cause<'a> {
        let side = usize::from(std::ptr::eq(words, &raw const self.rx_words));
        Cause { sleepers: &self.sleepers, side, count: &words[0], seen, call }
    }

    /// Sleeps until the driver's count `words` is not `seen`, the calls are more than `call`, or the monotonic
    /// clock shows `until_ns`; `false` if it does.
    pub(crate) fn sleep(&self, words: &ShmWords, seen: u64, call: u32, until_ns: u64) -> bool {
        sleep::until(&[self.cause(words, seen, call)], until_ns)
    }

    /// The latest news, if there is any; losing the flow is an error from then on.
    pub(crate) fn news(&self) -> Result<Option<Changes>, Error> {
        if !self.news.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut latest = self.latest();
        if let Some(reason) = &latest.lost {
            return Err(Error::Lost(reason.clone()));
        }
        self.news.store(false, Ordering::Relaxed);
        let is_contract_new = std::mem::take(&mut latest.is_contract_new);
        let contract = is_contract_new.then_some(latest.contract);
        let fib = std::mem::take(&mut latest.is_fib_new).then_some(latest.fib);
        let reopened = std::mem::take(&mut latest.calls).0;
        let is_orphaned = latest.is_orphaned;
        Ok(Some(Changes { fib, contract, reopened, is_orphaned }))
    }

    /// What to say when the flow is closed: once.
    fn last_request(&self) -> Option<Request> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.host.unregister(self.id);
        self.tell_strangers();
        Some(Request::Close { flow: self.id, time_wait: self.latest().time_wait })
    }

    pub(crate) fn close(&self) -> Result<Bill, Error> {
        let request =
            self.last_request().ok_or_else(|| Error::Lost("the flow is closed".into()))?;
        // Whatever the answer, the driver uses the memory no more: it has let go, or is gone. If there is none, or
        // the flow manager alone is gone, the driver may still write there: keep it.
        let (domain, layout) = (Arc::clone(&self.domain), self.layout);
        let give_back = move |reply: &Result<Reply, Error>| {
            if !matches!(reply, Err(Error::FlowManagerGone | Error::TimedOut)) {
                domain.give_back(&layout);
            }
        };
        let late = give_back.clone();
        let reply = self.host.call_until(request, u64::MAX, move |reply| late(&reply));
        give_back(&reply);
        match reply? {
            Reply::Closed { bill } => Ok(bill),
            other => Err(unexpected(&other)),
        }
    }
}

impl Latest {
    const fn set_fib(&mut self, fib: Fib, mtu_max: u16) {
        let mtu = if fib.mtu < mtu_max { fib.mtu } else { mtu_max };
        (self.fib, self.is_fib_new) = (Fib { mtu, ..fib }, true);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure, or of the bill.
        if let Some(request) = self.shared.last_request() {
            self.shared.host.close_later(request, &self.shared.domain, self.shared.layout);
        }
    }
}

#[test]
fn as_many_who_call_wait_to_be_looked_at_as_a_driver_lets_through_at_once_and_no_more() {
    let call = |port: u16| Reopened {
        remote: ([10, 77, 0, 2], port).into(),
        station: Mac([2; 6]),
        header: vec![0; 40],
        above: port.into(),
    };
    let mut calls = Calls::default();
    let waiting = (1..=u16::MAX).take_while(|&port| calls.add(call(port))).count();
    // The flow manager has the driver let through 2,048 at once.
    assert!((2_048..=8_192).contains(&waiting), "{waiting}");
    assert!(calls.0.iter().map(|call| call.above).eq(1..=waiting as u32), "in order");
}
