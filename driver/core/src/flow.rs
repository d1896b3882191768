//! What the driver keeps of a flow.

use base_flow::{Contract, Endpoints, FlowId};
use driver_filter::Template;
use rbuf_channel::{End, IoRec};

use crate::account::Receiver;
use crate::arenas::Arenas;

/// Which channel of a flow moved.
pub(crate) mod touched {
    pub(crate) const TX: u8 = 1;
    pub(crate) const RX: u8 = 2;
}

/// No flow has this number.
pub(crate) const NO_FLOW: u32 = u32::MAX;

pub(crate) struct Flow<A: Arenas> {
    pub(crate) id: FlowId,
    /// Index of its domain.
    pub(crate) domain: u32,
    /// Its number within the domain.
    pub(crate) slot: u32,
    pub(crate) tx: End<A::Words>,
    pub(crate) tx_data: A::Data,
    pub(crate) rx: End<A::Words>,
    pub(crate) rx_data: A::Data,
    /// The next packet to send, taken from the channel, if it names anything: its owner can no longer
    /// change it.
    pub(crate) head: IoRec,
    /// A buffer taken for receiving that was not used.
    pub(crate) spare: IoRec,
    /// Words needed to return the packets that the link has.
    pub(crate) owed_words: u64,
    /// What it may send; nothing before it is attached.
    pub(crate) template: Option<Template>,
    pub(crate) endpoints: Option<Endpoints>,
    /// What it may receive.
    pub(crate) receiver: Receiver,
    /// Its contract, for which the domain's account earns.
    pub(crate) contract: Contract,
    /// Channels whose other side is to be told of something at the end of the round: bits of
    /// [`touched`].
    pub(crate) touched: u8,
    /// Words of the channel that are still to be sent, if the flow is being closed.
    pub(crate) drain_words: Option<u64>,
    /// Whether its owner lied: it has no channels any more.
    pub(crate) faulted: bool,
}
