//! What lies below a connection: its flow, the layers on it, and what they tell the connection.

use base_flow::Endpoints;
use base_wire::Protocol;
use rbuf_shm::{ShmData, ShmWords};
use stack_layer::{Ether, Ip4, Tcp};
use stack_socket::SUPER_SEGMENT_BYTES;
use stack_tcp::{Algorithm, Config};

use crate::Error;
use crate::flow::Flow;
use crate::options::Options;

/// Headers that can be on their way to the wire.
pub(super) const HEADERS: u16 = 128;

/// What can be received before it is known how fast the application reads.
pub(crate) const FIRST_RECEIVE_BYTES: u32 = 65_536;

pub(super) type Layers = stack_socket::Layers<ShmWords, ShmData>;

/// Opens the flow of a connection, until `deadline_ns`, and forms its layers.
pub(super) fn open(
    options: &Options,
    endpoints: Endpoints,
    deadline_ns: u64,
) -> Result<(Flow, Layers), Error> {
    let host = options.chosen_host()?;
    let mut flow = Flow::open(&host, options, endpoints, Some(HEADERS), deadline_ns)?;
    let stack = layers(&mut flow)?;
    Ok((flow, stack))
}

pub(super) fn layers(flow: &mut Flow) -> Result<Layers, Error> {
    let fib = *flow.fib();
    let device =
        flow.take_device().ok_or_else(|| Error::Protocol("the flow has a stack already".into()))?;
    Ok(Tcp::new(Ip4::new(Ether::new(device, &fib), &fib, Protocol::TCP)?, &fib))
}

/// The congestion control for a flow of such a contract: what is guaranteed need not be probed for.
pub(super) fn congestion(flow: &Flow) -> Algorithm {
    let contract = flow.known_contract();
    let Some(rate) = flow.rate().filter(|_| contract.is_guaranteed()) else {
        return Algorithm::Cubic;
    };
    let bits = u128::from(rate.bits_per_s()) * u128::from(contract.slice_ns);
    let bytes_per_second = bits / 8 / u128::from(contract.period_ns.max(1));
    Algorithm::Guaranteed {
        bytes_per_second: u64::try_from(bytes_per_second).unwrap_or(u64::MAX),
        period_ns: contract.period_ns,
        slack: contract.slack,
    }
}

/// What a connection of this flow is told.
pub(super) fn config(options: &Options, flow: &Flow) -> Config {
    Config {
        mtu: flow.fib().mtu,
        super_segment_bytes: SUPER_SEGMENT_BYTES,
        receive_bytes: options.receive_bytes.min(FIRST_RECEIVE_BYTES),
        receive_bytes_max: options.receive_bytes,
        congestion: options.congestion.unwrap_or_else(|| congestion(flow)),
        ecn: options.ecn,
        ..Config::default()
    }
}
