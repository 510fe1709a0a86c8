//! Counts what each address has open, so that one client cannot take all there is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// A count for each address, and one for all of them. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct PerAddress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// One counted thing; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    of: PerAddress,
    address: IpAddr,
}

impl PerAddress {
    /// At most `most` in all.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, counts: Mutex::default() }))
    }

    /// Counts one more, or nothing if there are too many: `most_each` of this address, or as many in all as there may
    /// be.
    pub(crate) fn enter(&self, address: IpAddr, most_each: usize) -> Option<Counted> {
        let address = network(address);
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.0.most || counts.each.get(&address).is_some_and(|count| *count >= most_each) {
            return None;
        }
        counts.all += 1;
        *counts.each.entry(address).or_default() += 1;
        Some(Counted { of: self.clone(), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.of.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.each.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.each.remove(&self.address);
            }
        }
    }
}

/// The address itself, or the network of 64 bits that one client of IPv6 has.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_part_and_gives_it_back() {
        let counts = PerAddress::new(4);
        let enter = |address: &str| counts.enter(address.parse().unwrap(), 2);
        let held = [enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap()];
        assert!(enter("10.0.0.1").is_none(), "all that one address may have");
        let others = [enter("fd00::1").unwrap(), enter("fd00::2").unwrap()];
        assert!(enter("fd00::3").is_none(), "one network of IPv6 is one client");
        assert!(enter("10.0.0.2").is_none(), "all are taken");
        drop((held, others));
        assert!(counts.0.counts.lock().unwrap().each.is_empty());
        assert!(enter("10.0.0.1").is_some());
    }
}
