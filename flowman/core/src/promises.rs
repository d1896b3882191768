//! What the flow manager promises of its lines, and when it has it back.

use base_flow::{Begin, Contract, FlowId};
use base_rpc::Refusal;

use crate::manager::{FlowManager, LinkId};

impl FlowManager {
    /// Admits a contract of `uid` for `flow`, in place of what it has if it has one, by the user's rights
    /// and by what the line has left.
    pub(crate) fn admit(
        &mut self,
        flow: FlowId,
        link: LinkId,
        uid: u32,
        contract: &Contract,
    ) -> Result<Begin, Refusal> {
        // A right to the whole line needs no check of its own: admission is stricter.
        let allowed_ppm = self.policy.rights(uid).guarantee_ppm_max;
        let limit = (allowed_ppm < 1_000_000).then_some(allowed_ppm);
        let no_link = Refusal::NoLink { link: link.0 };
        let driver = self.links[usize::from(link.0)].driver.as_mut().ok_or(no_link)?;
        driver
            .shares
            .admit(flow, uid, contract, limit)
            .map_err(|refused| Refusal::guarantee(contract, refused))
    }

    /// A flow has sent its last: from now on only that counts.
    pub(crate) fn leave(&mut self, flow: FlowId, link: LinkId) {
        if let Some(driver) = &mut self.links[usize::from(link.0)].driver {
            driver.shares.leave(flow);
        }
    }

    /// The driver says that what a flow has sent under earlier contracts is paid for. Of a flow that is
    /// gone, everything is free for others now.
    pub(crate) fn settled(&mut self, flow: FlowId, link: LinkId, change: Option<u32>) {
        if let Some(driver) = &mut self.links[usize::from(link.0)].driver
            && let Some(user) = driver.shares.settled(flow, change)
        {
            self.flows.give_place(flow);
            self.accounts.settle(user);
        }
    }

    /// The driver of a link is gone, and with it all that it would have settled.
    pub(crate) fn settle_all(&mut self, link: LinkId) {
        let Some(driver) = &self.links[usize::from(link.0)].driver else { return };
        let gone: Vec<(FlowId, u32)> =
            driver.shares.unsettled().filter(|(flow, _)| self.flows.get(*flow).is_none()).collect();
        for (flow, user) in gone {
            self.flows.give_place(flow);
            self.accounts.settle(user);
        }
    }
}
