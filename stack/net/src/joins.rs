//! Arenas that this process shares with drivers, each joined on first use.
//!
//! A driver may stand still. All threads that want its arenas wait for the same answer, each until its own
//! deadline, and nobody holds a lock meanwhile: so they do not wait one after the other.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_rpc::{JoinOffer, Refusal, Reply, Request};
use rbuf_domain::Domain;

use crate::Error;
use crate::host::unexpected;
use crate::rpc::{Heed, Rpc};

/// What is shared with the driver of a link, or asked for.
enum Joined {
    /// The call of this tag asks for it, and so many threads wait for the answer.
    Asked {
        tag: u32,
        waiting: u32,
    },
    Yes(Arc<Domain>),
}

/// What is shared with the drivers of all links. Its lock is never held while somebody waits, nor where the
/// flow manager is asked.
#[derive(Default)]
pub(crate) struct Joins {
    links: Mutex<HashMap<u16, Joined>>,
}

impl Joins {
    fn links(&self) -> MutexGuard<'_, HashMap<u16, Joined>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The arenas that `offer` is about; [`Error::TimedOut`] if they are not there by `deadline_ns`, and they can
    /// be waited for again.
    pub(crate) fn domain(
        &self,
        rpc: &Rpc,
        offer: JoinOffer,
        deadline_ns: u64,
        heed: Heed<'_>,
    ) -> Result<Arc<Domain>, Error> {
        let link = offer.link;
        loop {
            let tag = {
                let mut links = self.links();
                let asked = || Joined::Asked { tag: rpc.new_tag(), waiting: 0 };
                let is_new = !links.contains_key(&link);
                match links.entry(link).or_insert_with(asked) {
                    Joined::Yes(domain) => return Ok(Arc::clone(domain)),
                    Joined::Asked { tag, waiting } => {
                        *waiting += 1;
                        let tag = *tag;
                        drop(links);
                        if is_new {
                            rpc.ask_as(tag, Request::Join(offer));
                        }
                        tag
                    }
                }
            };
            let enter = |answered| Some(self.enter(offer, answered));
            // Or it was refused to another thread, which has been told.
            let is_entered = || (!self.is_asked(link, tag)).then_some(None);
            let entered = rpc.answer_for_all(tag, deadline_ns, heed, enter, is_entered);
            if let Some(Joined::Asked { tag: of, waiting }) = self.links().get_mut(&link)
                && *of == tag
            {
                *waiting -= 1;
            }
            if let Some(joined) = entered? {
                return joined;
            }
        }
    }

    /// Enters what was answered, for all.
    fn enter(
        &self,
        JoinOffer { link, flows_max }: JoinOffer,
        (reply, descriptors): (Reply, Vec<OwnedFd>),
    ) -> Result<Arc<Domain>, Error> {
        let made = match reply {
            Reply::Joined => Domain::new(flows_max, descriptors).map(Arc::new).map_err(Error::from),
            Reply::Refused(refusal) => Err(refusal.into()),
            other => Err(unexpected(&other)),
        };
        match &made {
            Ok(domain) => self.links().insert(link, Joined::Yes(Arc::clone(domain))),
            Err(_) => self.links().remove(&link),
        };
        made
    }

    fn is_asked(&self, link: u16, by: u32) -> bool {
        matches!(self.links().get(&link), Some(Joined::Asked { tag, .. }) if *tag == by)
    }

    /// The arenas shared with the driver of `link`, if there are; `None` while somebody waits for them.
    pub(crate) fn joined_domain(&self, link: u16) -> Option<Result<Arc<Domain>, Refusal>> {
        match self.links().get(&link) {
            Some(Joined::Yes(domain)) => Some(Ok(Arc::clone(domain))),
            Some(Joined::Asked { waiting, .. }) if *waiting > 0 => None,
            _ => Some(Err(Refusal::NotJoined { link })),
        }
    }

    /// What is shared with the driver of `link` is of no use any more: it is another driver.
    pub(crate) fn forget(&self, link: u16) {
        let mut links = self.links();
        if matches!(links.get(&link), Some(Joined::Yes(_))) {
            links.remove(&link);
        }
    }

    /// Forgets what is shared with drivers that are gone, and says on which links.
    pub(crate) fn take_abandoned(&self) -> Vec<u16> {
        let mut gone = Vec::new();
        self.links().retain(|&link, joined| {
            let is_gone = matches!(joined, Joined::Yes(domain) if domain.bell().is_abandoned());
            if is_gone {
                gone.push(link);
            }
            !is_gone
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, decode, encode};
    use rbuf_domain::Passed;
    use rbuf_shm::Access::{Read, Write};
    use rbuf_shm::{Arena, Connection, Doorbell, DriverBell, monotonic_ns};

    use super::*;

    const OFFER: JoinOffer = JoinOffer { link: 3, flows_max: 2 };

    /// Longer than any test takes.
    fn in_a_while() -> u64 {
        monotonic_ns() + 20_000_000_000
    }

    /// What was asked next, at the flow manager's end.
    fn asked(manager: &Connection) -> Call {
        decode(&manager.receive(MESSAGE_BYTES_MAX).unwrap().bytes).unwrap()
    }

    /// Answers as if the driver had made arenas.
    fn answer_joined(manager: &Connection, tag: u32) {
        let make = |ours, others| {
            let arena = Arena::create("arena", 1 << 16, ours, others).unwrap();
            arena.file().try_clone_to_owned().unwrap()
        };
        let (bell, _) = Doorbell::new().unwrap();
        let passed: Vec<OwnedFd> = Passed {
            control_out: make(Read, Write),
            control_in: make(Write, Read),
            tx_data: make(Read, Write),
            rx_data: make(Write, Read),
            bell: bell.into(),
            driver_bell: DriverBell::new().unwrap().as_fd().try_clone_to_owned().unwrap(),
        }
        .into();
        let beside: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
        manager.send(&encode(&Answer { tag, reply: Reply::Joined }), &beside).unwrap();
    }

    #[test]
    fn who_waits_for_a_driver_is_not_kept_by_another_who_waits_longer() {
        let (ours, manager) = Connection::pair().unwrap();
        let (rpc, joins) = (Rpc::new(ours), Joins::default());
        thread::scope(|scope| {
            let patient = scope.spawn(|| joins.domain(&rpc, OFFER, in_a_while(), &|_| ()));
            let Call { tag, .. } = asked(&manager);
            let brief = joins.domain(&rpc, OFFER, monotonic_ns(), &|_| ());
            assert!(matches!(brief, Err(Error::TimedOut)), "its time is over");
            assert!(!patient.is_finished(), "the brief one has waited as long as the patient one");
            answer_joined(&manager, tag);
            patient.join().unwrap().unwrap();
        });
    }

    #[test]
    fn all_who_wait_for_a_driver_have_what_one_question_brings() {
        let (ours, manager) = Connection::pair().unwrap();
        let (rpc, joins) = (Rpc::new(ours), Joins::default());
        // So it was asked once, and nobody waited for the answer.
        joins.domain(&rpc, OFFER, monotonic_ns(), &|_| ()).unwrap_err();
        assert!(matches!(joins.joined_domain(3), Some(Err(Refusal::NotJoined { link: 3 }))));
        let Call { tag, request } = asked(&manager);
        assert_eq!(request, Request::Join(OFFER));
        thread::scope(|scope| {
            let wait = || joins.domain(&rpc, OFFER, in_a_while(), &|_| ()).unwrap();
            let others = [(); 4].map(|()| scope.spawn(wait));
            while rpc.waiting() < 3 {
                thread::yield_now();
            }
            assert!(joins.joined_domain(3).is_none(), "four wait");
            answer_joined(&manager, tag);
            let domains = others.map(|other| other.join().unwrap());
            assert!(domains.iter().all(|domain| Arc::ptr_eq(domain, &domains[0])));
            assert!(Arc::ptr_eq(&joins.joined_domain(3).unwrap().unwrap(), &domains[0]));
        });
        assert!(manager.try_receive(MESSAGE_BYTES_MAX).is_err(), "another question was asked");
    }

    #[test]
    fn who_waited_beside_one_that_is_refused_asks_again() {
        let (ours, manager) = Connection::pair().unwrap();
        let (rpc, joins) = (Rpc::new(ours), Joins::default());
        thread::scope(|scope| {
            let wait = || joins.domain(&rpc, OFFER, in_a_while(), &|_| ());
            let both = [(); 2].map(|()| scope.spawn(wait));
            let Call { tag, .. } = asked(&manager);
            while rpc.waiting() < 1 {
                thread::yield_now();
            }
            let reply = Reply::Refused(Refusal::NoLink { link: 3 });
            manager.send(&encode(&Answer { tag, reply }), &[]).unwrap();
            answer_joined(&manager, asked(&manager).tag);
            let joined = both.map(|one| one.join().unwrap().is_ok());
            assert_ne!(joined[0], joined[1], "one is refused, the other has the second answer");
        });
    }
}
