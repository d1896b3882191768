//! Why a frame was not passed on: one list for counters, tools and tests.

use core::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why the driver did not pass a frame on.
        ///
        /// Every dropped frame is counted under exactly one of these, in the bill of the flow it
        /// belonged to, or of the link if it belonged to none.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name used in tables and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What the reason means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Received: shorter than the headers it announces.
    Truncated = "truncated",
    /// Received: sent to another station.
    NotOurMac = "not_our_mac",
    /// Received: tagged for a VLAN this link is not part of.
    OtherVlan = "other_vlan",
    /// Received: from an address that nobody on a wire has: our own, a group's, everybody's, nobody's, or loopback.
    BadSource = "bad_source",
    /// Received: for one host or of a connection, but sent to many: in a frame for many, or to an address of many.
    SentToMany = "sent_to_many",
    /// Received: neither IP nor ARP.
    UnknownEtherType = "unknown_ether_type",
    /// Received: an IP header that contradicts itself or the frame.
    MalformedIp = "malformed_ip",
    /// Received: a transport header that contradicts itself or the packet.
    MalformedTransport = "malformed_transport",
    /// Received: for an address that is not ours, or of a family in which the link has none.
    NotOurAddress = "not_our_address",
    /// Received: a fragment, and the flow has no fragment filter.
    Fragment = "fragment",
    /// Received: no flow claims it, and it is nothing that the flow manager answers, or that is away.
    Unclaimed = "unclaimed",
    /// Received: the flow has posted no free buffer, so its owner does not keep up.
    NoFreeBuffer = "no_free_buffer",
    /// Received: larger than the buffer the flow posted.
    BufferTooSmall = "buffer_too_small",
    /// Received: the flow used up its budget of driver time.
    RxBudget = "rx_budget",
    /// Received: the flow's channel is closed, because its owner broke the rules of the channel.
    ChannelClosed = "channel_closed",
    /// Received: the link's own ring was full, because the driver did not run for too long.
    RingOverflow = "ring_overflow",
    /// Received: frames that the kernel merged into one that cannot be cut again: longer than 64 KiB, of an unknown kind, or with a checksum nobody vouches for.
    Merged = "merged",
    /// Received: from somebody else than whom its socket is connected to, and thrown away by the application, before the driver knew of that.
    Stranger = "stranger",
    /// Sent: the flow has no endpoints attached yet.
    NotAttached = "not_attached",
    /// Sent: shorter than the headers its flow must have.
    HeaderTooShort = "header_too_short",
    /// Sent: not aligned as the driver requires.
    Misaligned = "misaligned",
    /// Sent: longer than the link carries.
    TooLong = "too_long",
    /// Sent: is to be cut in a way the link does not offer.
    Segmentation = "segmentation",
    /// Sent: Ethernet address, VLAN or type is not the flow's.
    ForgedLink = "forged_link",
    /// Sent: IP version, options, protocol or address is not the flow's.
    ForgedNetwork = "forged_network",
    /// Sent: fragment bits on a flow that may not fragment.
    ForgedFragment = "forged_fragment",
    /// Sent: port, identifier or message type is not the flow's.
    ForgedTransport = "forged_transport",
    /// Sent: the lengths in the headers contradict each other or the frame.
    LengthsDisagree = "lengths_disagree",
    /// Sent: the kernel or the device refused it.
    LinkRefused = "link_refused",
    /// Sent: still queued when the flow was closed.
    Closed = "closed",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(names.insert(reason.name()), "{reason} is named twice");
            assert!(reason.meaning().ends_with('.'), "{reason} is not explained");
        }
    }
}
