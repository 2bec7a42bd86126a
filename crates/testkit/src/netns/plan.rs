//! The address plan of one control plane: several stand side by side in one network namespace, each with ranges of its own.

use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// How many plans there are; each takes one /16 of pods and one of Services.
pub const MAX_PLANS: u8 = 10;
/// The prefix length of the pod and Service ranges.
pub const PREFIX: u8 = 16;

const POD_BASE: u8 = 244;
const SERVICE_BASE: u8 = 96;

/// Addresses by number: plan 0 has pods in 10.244.0.0/16 and Services in 10.96.0.0/16, plan 1 in 10.245 and 10.97, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    index: u8,
}

impl Plan {
    /// The plan of that number.
    ///
    /// # Errors
    /// If there is none ([`MAX_PLANS`]).
    pub fn new(index: u8) -> Result<Self> {
        if index >= MAX_PLANS {
            bail!("there is no address plan {index}; the greatest is {}", MAX_PLANS - 1);
        }
        Ok(Self { index })
    }

    /// The plan whose pod or Service range an address is of.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        let [first, second, ..] = address.octets();
        let number = |base: u8| second.checked_sub(base).and_then(|index| Self::new(index).ok());
        (first == 10).then(|| number(POD_BASE).or_else(|| number(SERVICE_BASE))).flatten()
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> u8 {
        self.index
    }

    /// The name of the bridge the pods hang on.
    #[must_use]
    pub fn bridge(self) -> String {
        format!("br{}", self.index)
    }

    /// The bridge's own address: the pods' gateway, and where the API server listens.
    #[must_use]
    pub fn bridge_address(self) -> Ipv4Addr {
        self.pod_address(0, 1)
    }

    /// The pod range: its first address and prefix length.
    #[must_use]
    pub fn pod_net(self) -> (Ipv4Addr, u8) {
        (self.pod_address(0, 0), PREFIX)
    }

    /// An address of the pod range; node 0 belongs to the host (the bridge and the nodes' own addresses).
    #[must_use]
    pub fn pod_address(self, node: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, POD_BASE + self.index, node, host)
    }

    /// The Service range, as `ADDRESS/PREFIX`.
    #[must_use]
    pub fn service_cidr(self) -> String {
        format!("{}/{PREFIX}", self.service_address(0))
    }

    /// The address of the Service `kubernetes`: the first of the range.
    #[must_use]
    pub fn kubernetes_service(self) -> Ipv4Addr {
        self.service_address(1)
    }

    /// The address pods ask for names.
    #[must_use]
    pub fn dns(self) -> Ipv4Addr {
        self.service_address(10)
    }

    /// A loopback address of this plan's own, for what pods need not reach.
    #[must_use]
    pub fn loopback(self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.index + 1, 1)
    }

    fn service_address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, SERVICE_BASE + self.index, 0, host)
    }
}

/// The plans that are claimed; plan 0 is named, never claimed.
static CLAIMED: Mutex<[bool; MAX_PLANS as usize]> = Mutex::new([false; MAX_PLANS as usize]);
const CLAIMABLE: RangeInclusive<u8> = 1..=MAX_PLANS - 1;

/// A plan that nobody else in this process has while this value lives.
#[derive(Debug)]
pub struct Claim {
    plan: Plan,
}

impl Claim {
    /// A plan beside plan 0.
    ///
    /// # Errors
    /// If all are taken.
    pub fn new() -> Result<Self> {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        for index in CLAIMABLE {
            if let Some(is_taken) = claimed.get_mut(usize::from(index))
                && !std::mem::replace(is_taken, true)
            {
                return Ok(Self { plan: Plan::new(index)? });
            }
        }
        None.with_context(|| format!("all {} address plans are taken", CLAIMABLE.count()))
    }

    /// The claimed plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_taken) = claimed.get_mut(usize::from(self.plan.index)) {
            *is_taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_do_not_overlap() {
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..MAX_PLANS {
            let plan = Plan::new(index).unwrap();
            assert!(seen.insert(plan.pod_net().0), "{plan:?}");
            assert!(seen.insert(plan.kubernetes_service()), "{plan:?}");
            assert!(seen.insert(plan.loopback()), "{plan:?}");
            assert!(seen.insert(plan.bridge_address()), "{plan:?}");
        }
        assert_eq!(Plan::new(0).unwrap().service_cidr(), "10.96.0.0/16");
        assert_eq!(Plan::new(0).unwrap().dns(), Ipv4Addr::new(10, 96, 0, 10));
        assert_eq!(Plan::of(Ipv4Addr::new(10, 253, 3, 9)), Plan::new(9).ok());
        assert_eq!(Plan::of(Ipv4Addr::new(10, 97, 0, 10)), Plan::new(1).ok());
        assert_eq!(Plan::of(Ipv4Addr::new(10, 254, 0, 1)), None);
        assert_eq!(Plan::of(Ipv4Addr::new(192, 244, 0, 1)), None);
        assert!(Plan::new(MAX_PLANS).unwrap_err().to_string().contains("greatest is 9"));
    }
    #[test]
    fn a_claim_is_exclusive_and_given_back() {
        let claims: Vec<Claim> = CLAIMABLE.map(|_| Claim::new().unwrap()).collect();
        let plans: std::collections::BTreeSet<u8> = claims.iter().map(|claim| claim.plan().index()).collect();
        assert_eq!(plans, CLAIMABLE.collect());
        assert!(Claim::new().is_err());
        drop(claims);
        assert!(Claim::new().is_ok());
    }
}
