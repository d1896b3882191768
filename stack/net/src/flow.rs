//! A flow: its channels, its name, and what the flow manager has to say about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId, Rate};
use base_rpc::{FlowLayout, Refusal, Reply, Request, TimeWait};
use base_wire::Mac;
use rbuf_channel::Park;
use rbuf_domain::Domain;
use rbuf_shm::{Futex, ShmData, ShmWords};
use stack_layer::{Device, Layer as _};

use crate::host::unexpected;
use crate::tcp::Service;
use crate::{Error, Host, Options};

/// The bottom of an application's stack.
pub type FlowDevice = Device<ShmWords, ShmData>;

/// An open flow. Closed when dropped.
#[derive(Debug)]
pub struct Flow {
    pub(crate) shared: Arc<Shared>,
    device: Option<FlowDevice>,
    fib: Fib,
    tardiness_ns: u64,
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
    /// Whether there is news.
    news: AtomicBool,
    latest: Mutex<Latest>,
    closed: AtomicBool,
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

/// As many wait to be looked at; who is one too many asks again.
const REOPENED_MAX: usize = 64;

/// What of it is new to whoever works on the flow.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) fib: Option<Fib>,
    pub(crate) contract: Option<Contract>,
    pub(crate) reopened: Vec<Reopened>,
}

#[derive(Debug)]
struct Latest {
    lost: Option<String>,
    fib: Fib,
    is_fib_new: bool,
    contract: Contract,
    is_contract_new: bool,
    reopened: Vec<Reopened>,
    time_wait: Option<TimeWait>,
}

impl Flow {
    /// Opens a flow; with `headers`, packets are formed from so many headers and payload that lies
    /// elsewhere in the transmit area.
    pub(crate) fn open(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
    ) -> Result<Self, Error> {
        let mut link = host.link_of(endpoints.local.address);
        for _ in 0..3 {
            match Self::open_on(host, options, endpoints, headers, link) {
                Err(Error::Refused(Refusal::OtherLink { link: other, .. })) => link = other,
                Err(Error::Refused(Refusal::NotJoined { link })) => host.forget_domain(link),
                result => return result,
            }
        }
        Err(Error::Protocol("the flow manager sends us from link to link".into()))
    }

    fn open_on(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        headers: Option<u16>,
        link: u16,
    ) -> Result<Self, Error> {
        let Some(info) = host.links().iter().find(|info| info.link == link) else {
            return Err(Refusal::NoLink { link }.into());
        };
        // The link may carry less now, and as much as that again later.
        let mtu = info.facts.mtu_max;
        let domain = host.domain(link)?;
        let shape = match headers {
            Some(headers) => options.stream_shape(mtu, headers, domain.is_roomy()),
            None => options.datagram_shape(mtu),
        };
        let layout = host.lay_out(&domain, &shape)?;
        // The channels are ready before the driver hears of them: the first packet can be queued as
        // soon as the answer is here, and what arrives meanwhile finds buffers.
        let opened = domain.ends(&layout).map_err(Error::from).and_then(|ends| {
            let areas = (ends.tx_data, ends.rx_data);
            let words = (ends.tx.peer_words(), ends.rx.peer_words());
            let ends = (ends.tx, ends.rx);
            let device = match headers {
                Some(headers) => {
                    let mut device = Device::with_headers(ends, areas.clone(), mtu, headers);
                    device.offer_buffers(options.first_buffers(mtu))?;
                    device
                }
                None => Device::new(ends, areas.clone(), mtu)?,
            };
            let request = Request::Open {
                link,
                contract: options.contract,
                layout,
                endpoints: Some(endpoints),
            };
            match host.call(request)? {
                Reply::Opened { flow, fib: Some(fib), contract, tardiness_ns } => {
                    Ok((device, areas, words, (flow, fib, contract, tardiness_ns)))
                }
                other => Err(unexpected(&other)),
            }
        });
        let (mut device, areas, (tx_words, rx_words), (id, fib, contract, tardiness_ns)) =
            match opened {
                Ok(opened) => opened,
                Err(error) => {
                    domain.give_back(&layout);
                    return Err(error);
                }
            };
        // The driver may be another one than when the links were asked for.
        let fib = Fib { mtu: fib.mtu.min(mtu), ..fib };
        device.reorganise(&fib);
        let shared = Arc::new(Shared {
            host: host.clone(),
            domain,
            layout,
            link,
            mtu_max: mtu,
            areas,
            id,
            tx_words,
            rx_words,
            news: AtomicBool::new(false),
            latest: Mutex::new(Latest {
                lost: None,
                fib,
                is_fib_new: false,
                contract,
                is_contract_new: false,
                reopened: Vec::new(),
                time_wait: None,
            }),
            closed: AtomicBool::new(false),
        });
        host.register(id, &shared);
        Ok(Self { shared, device: Some(device), fib, tardiness_ns })
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
        let link = usize::from(self.shared.link);
        self.shared.host.links().get(link).map(|info| info.facts.rate)
    }

    /// The contract as admitted.
    pub fn contract(&self) -> Contract {
        // Somebody else may have changed it.
        self.shared.host.hear_notices();
        self.known_contract()
    }

    /// As [`Self::contract`], as far as this process has heard.
    pub(crate) fn known_contract(&self) -> Contract {
        self.shared.latest().contract
    }

    /// How late beyond its deadline a guaranteed frame can be, in nanoseconds.
    pub const fn tardiness_ns(&self) -> u64 {
        self.tardiness_ns
    }

    /// The bottom of the stack, to build layers on; `None` if it was taken before.
    pub const fn take_device(&mut self) -> Option<FlowDevice> {
        self.device.take()
    }

    /// Tells the driver what it asked to be told, after a batch of sends and receives.
    pub fn kick(&self, device: &mut FlowDevice) {
        self.shared.kick(device);
    }

    /// Sleeps until a packet has arrived on `device` or the monotonic clock shows `until_ns`; `false`
    /// if it did. Call-backs of the flow manager are heard meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the flow was closed by the driver or the flow manager.
    pub fn wait(&self, device: &mut FlowDevice, until_ns: u64) -> Result<bool, Error> {
        self.shared.kick(device);
        let Some(seen) = device.rx().await_published(1)? else { return Ok(true) };
        let woken = Futex::until(until_ns).sleep(&self.shared.rx_words[0], seen);
        device.rx().awake();
        self.shared.host.hear_notices();
        self.shared.news()?;
        Ok(woken)
    }

    /// Asks for another contract; it holds from the next period on.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays then.
    pub fn adjust(&mut self, contract: Contract) -> Result<Contract, Error> {
        match self.shared.host.call(Request::AdjustQos { flow: self.shared.id, contract })? {
            Reply::Adjusted { contract, tardiness_ns } => {
                self.tardiness_ns = tardiness_ns;
                self.shared.set_contract(contract);
                Ok(contract)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the flow other ends.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the flow has no ends then.
    pub fn attach(&mut self, endpoints: Endpoints) -> Result<&Fib, Error> {
        match self.shared.host.call(Request::Attach { flow: self.shared.id, endpoints })? {
            Reply::Attached { fib } => {
                let mut latest = self.shared.latest();
                latest.fib = Fib { mtu: fib.mtu.min(self.shared.mtu_max), ..fib };
                self.fib = latest.fib;
                drop(latest);
                Ok(&self.fib)
            }
            other => Err(unexpected(&other)),
        }
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
    pub(crate) const fn host(&self) -> &Host {
        &self.host
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

    /// The link it is on.
    pub(crate) const fn link(&self) -> u16 {
        self.link
    }

    /// What the flow manager is to say in place of a connection when the flow is closed.
    pub(crate) fn leave(&self, time_wait: TimeWait) {
        self.latest().time_wait = Some(time_wait);
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
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
            News::Lost(reason) => latest.lost = Some(reason),
            News::Reopened(syn) if latest.reopened.len() < REOPENED_MAX => {
                latest.reopened.push(syn);
            }
            News::Reopened(_) => return,
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
        Futex::patient().wake(&self.tx_words[0]);
        Futex::patient().wake(&self.rx_words[0]);
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
        let reopened = std::mem::take(&mut latest.reopened);
        Ok(Some(Changes { fib, contract, reopened }))
    }

    /// What to say when the flow is closed: once.
    fn last_request(&self) -> Option<Request> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.host.unregister(self.id);
        Some(Request::Close { flow: self.id, time_wait: self.latest().time_wait })
    }

    fn close(&self) -> Result<Bill, Error> {
        let request =
            self.last_request().ok_or_else(|| Error::Lost("the flow is closed".into()))?;
        let reply = self.host.call(request);
        // Whatever the answer, the driver uses the memory no more: it has let go, or is gone. If
        // the flow manager alone is gone, the driver may still write there: keep it.
        if !matches!(reply, Err(Error::FlowManagerGone)) {
            self.domain.give_back(&self.layout);
        }
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
