//! What routers and hosts say of datagrams: errors to tell, and how much paths carry.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use stack_layer::{Control, ControlError};

use crate::Error;

/// Messages that are kept for whoever asks; of more, the oldest are forgotten.
const KEPT_MAX: usize = 64;

/// How long a path is believed to carry no more (RFC 1191 §6.3).
pub(super) const PATH_NS: u64 = 600_000_000_000;

/// Paths that are remembered.
const PATHS_MAX: usize = 256;

/// What no path is believed to carry less of: who claims so would make us send many small packets.
const PATH_BYTES_MIN: u16 = 552;

/// What paths carry, from which one is chosen below a packet that was too large (RFC 1191 §7.1).
const PLATEAUS: [u16; 6] = [8166, 4352, 2002, 1492, 1006, PATH_BYTES_MIN];

#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The error that the next call returns: the first that nobody was told of.
    pending: Option<ControlError>,
    kept: VecDeque<Control>,
    paths: HashMap<IpAddr, (u16, u64)>,
}

impl Troubles {
    /// A message about a datagram; `connected` if the socket is, so that its calls fail for it if it is a hard
    /// error, as Linux's do: others may pass, and are kept. Packets to there had up to `mtu` bytes. Returns what
    /// the path carries, if that is news.
    pub(super) fn hear(
        &mut self,
        control: Control,
        connected: bool,
        mtu: u16,
        now_ns: u64,
    ) -> Option<u16> {
        let mut news = None;
        if let ControlError::TooLarge { mtu: said } = control.error {
            let before = self.path(control.to.ip(), now_ns).unwrap_or(mtu);
            let below = |bytes: u16| {
                PLATEAUS.into_iter().find(|plateau| *plateau < bytes).unwrap_or(PATH_BYTES_MIN)
            };
            let path = if said == 0 { below(before) } else { said.max(PATH_BYTES_MIN) };
            news = (path < before).then_some(path);
            if let Some(path) = news {
                self.remember(control.to.ip(), path, now_ns + PATH_NS);
            }
        }
        if connected && control.error.is_hard() {
            self.pending.get_or_insert(control.error);
        }
        self.keep(control);
        news
    }

    fn remember(&mut self, to: IpAddr, mtu: u16, until_ns: u64) {
        if self.paths.len() >= PATHS_MAX {
            self.paths.clear();
        }
        self.paths.insert(to, (mtu, until_ns));
    }

    /// Another socket or connection has heard what the path to a host carries; for as long as it is not asked for
    /// again, `lasts_ns`.
    pub(super) fn learn(&mut self, to: IpAddr, mtu: u16, now_ns: u64, lasts_ns: u64) {
        let mtu = mtu.max(PATH_BYTES_MIN);
        if self.path(to, now_ns).is_none_or(|known| mtu < known) {
            self.remember(to, mtu, now_ns + lasts_ns);
        }
    }

    pub(super) fn keep(&mut self, control: Control) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(control);
    }

    /// The error to return, once.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.pending.take().map(Error::Control)
    }

    /// The oldest message that was not taken.
    pub(super) fn take(&mut self) -> Option<Control> {
        self.kept.pop_front()
    }

    /// Largest packet that the path to a host carries, if it is known to be smaller than the link's.
    pub(super) fn path(&self, to: IpAddr, now_ns: u64) -> Option<u16> {
        let (mtu, until_ns) = self.paths.get(&to)?;
        (now_ns < *until_ns).then_some(*mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(error: ControlError) -> Control {
        Control { to: ([10, 9, 0, 1], 5000).into(), from: [10, 77, 0, 254].into(), error }
    }

    #[test]
    fn a_path_carries_what_a_router_says_and_never_more_than_it_did_nor_less_than_paths_do() {
        let (to, mut troubles) = ([10, 9, 0, 1].into(), Troubles::default());
        let mut hear = |mtu, now_ns| {
            let said = control(ControlError::TooLarge { mtu });
            (troubles.hear(said, false, 1500, now_ns), troubles.path(to, now_ns))
        };
        assert_eq!(hear(1400, 0), (Some(1400), Some(1400)));
        assert_eq!(hear(1450, 0), (None, Some(1400)), "an old message");
        assert_eq!(hear(0, 0), (Some(1006), Some(1006)), "an old router: the next plateau");
        assert_eq!(hear(68, 0), (Some(PATH_BYTES_MIN), Some(PATH_BYTES_MIN)));
        assert_eq!(troubles.path(to, PATH_NS), None, "it is tried again");
    }

    #[test]
    fn what_others_have_learned_of_a_path_counts_if_it_is_less_and_as_long_as_they_say() {
        let (to, mut troubles) = ([10, 9, 0, 1].into(), Troubles::default());
        troubles.learn(to, 1400, 0, 30);
        troubles.learn(to, 1450, 1, 30);
        assert_eq!((troubles.path(to, 29), troubles.path(to, 30)), (Some(1400), None));
        troubles.learn(to, 68, 30, 30);
        assert_eq!(troubles.path(to, 31), Some(PATH_BYTES_MIN));
    }

    #[test]
    fn a_connected_socket_is_told_the_first_error_once_and_all_messages_are_kept_up_to_a_limit() {
        let mut troubles = Troubles::default();
        troubles.hear(control(ControlError::PortUnreachable), false, 1500, 0);
        assert!(troubles.take_error().is_none(), "it is not connected");
        troubles.hear(control(ControlError::HostUnreachable), true, 1500, 0);
        assert!(troubles.take_error().is_none(), "that may pass");
        for _ in 0..100 {
            troubles.hear(control(ControlError::PortUnreachable), true, 1500, 0);
            troubles.hear(control(ControlError::Prohibited), true, 1500, 0);
        }
        let told = troubles.take_error();
        assert!(matches!(told, Some(Error::Control(ControlError::PortUnreachable))), "{told:?}");
        assert!(troubles.take_error().is_none());
        assert_eq!(std::iter::from_fn(|| troubles.take()).count(), KEPT_MAX);
    }
}
