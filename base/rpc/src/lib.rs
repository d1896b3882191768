//! Messages between the three domains, and their codec (paper §4.1, "same-machine RPC").
//!
//! | Between | Asks | Answers |
//! |---|---|---|
//! | application and flow manager | [`Request`] | [`Reply`], in an [`Answer`] with the request's tag |
//! | flow manager and driver | [`ToDriver`] | [`FromDriver`] |
//!
//! One message is one `SOCK_SEQPACKET` datagram: [`MAGIC`], [`VERSION`], then the body. Descriptors
//! travel beside a message, never in it; each message documents which, in which order.
//!
//! What arrives from an application is an allegation: [`decode`] refuses what it cannot read in
//! full, and the flow manager checks what it says.

#![forbid(unsafe_code)]

mod app;
mod codec;
mod driver;

pub use app::{
    Answer, Call, FlowInfo, JoinOffer, LinkInfo, NeighbourInfo, NeighbourState, Query, QueryReply,
    Refusal, Reply, Request, RouteInfo, StatusInfo, TimeWait, UserInfo,
};
pub use codec::{DecodeError, MAGIC, MESSAGE_BYTES_MAX, VERSION, decode, encode};
pub use driver::{
    DomainId, DomainUser, FlowLayout, FromDriver, InstallError, Region, Spender, ToDriver,
};
