//! Tables and flows carried into the kernel. A change goes in as one batch or not at all.

use std::io;

use coracle_linux::netlink::{Family as Door, Socket};
use coracle_netplan::conntrack::{Targets, flows_request, forget_if_stale};
use coracle_netplan::nft::{Family, Table, diff, encode, remove_table, replace};

/// Makes the kernel's table `new`. `old` is what was applied last; without it the table is replaced whatever it is.
/// Gives the number of commands it took.
pub fn apply(old: Option<&Table>, new: &Table) -> io::Result<usize> {
    let commands = old.map_or_else(|| replace(new), |old| diff(old, new));
    if !commands.is_empty() {
        Socket::open(Door::Netfilter)?.transact(&encode(new, &commands))?;
    }
    Ok(commands.len())
}

/// Removes a table of either family; none is no error.
pub fn remove(name: &str) -> io::Result<()> {
    for family in [Family::Ipv4, Family::Ipv6] {
        Socket::open(Door::Netfilter)?.transact(&remove_table(family, name))?;
    }
    Ok(())
}

/// Forgets UDP flows that go to no right endpoint and gives their number.
pub fn forget_stale_flows(family: Family, targets: &Targets) -> io::Result<usize> {
    if targets.is_empty() {
        return Ok(0);
    }
    let flows = Socket::open(Door::Netfilter)?.dump(&flows_request(family))?;
    let mut forgotten = 0;
    for message in flows.iter().filter_map(|flow| forget_if_stale(flow, family, targets)) {
        // The flow may have ended meanwhile.
        match Socket::open(Door::Netfilter)?.transact(&message) {
            Ok(()) => forgotten += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}
