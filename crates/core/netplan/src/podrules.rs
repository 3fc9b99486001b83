//! The packet filter of the pod network itself: what leaves the pods' range wears the node's address, and what only the
//! node may say to itself stays out.

use crate::Cidr;
use crate::nft::{Base, BaseKind, Expr, Family, Hook, Side, Table, Test, Verdict, Way};

/// Ahead of connection tracking, where answers translated back to a loopback address do not show yet.
const BEFORE_TRACKING: i32 = -300;
const SOURCE_TRANSLATION: i32 = 100;

/// The table for the pods behind `bridge`. `cluster_range` holds the pods of all nodes, `node_range` those of this one.
pub fn pod_table(name: &str, bridge: &str, node_range: Cidr, cluster_range: Cidr) -> Table {
    let mut table = Table::new(Family::of(node_range.network()), name);
    let from_bridge = || Expr::Interface(Way::In, Test::Is, bridge.to_owned());
    let outward = vec![
        Expr::Address(Side::Source, Test::Is, node_range),
        Expr::Address(Side::Destination, Test::IsNot, cluster_range),
        Expr::Interface(Way::Out, Test::IsNot, bridge.to_owned()),
        Expr::Masquerade,
    ];
    let at = |kind, hook, priority| Base { kind, hook, priority };
    table.base("nat-postrouting", at(BaseKind::Nat, Hook::Postrouting, SOURCE_TRANSLATION), vec![outward]);
    if node_range.is_ipv4() {
        let loopback = Cidr::new([127, 0, 0, 0].into(), 8).expect("8 bits fit an IPv4 address");
        let dropped = |side| vec![from_bridge(), Expr::Address(side, Test::Is, loopback), Expr::Verdict(Verdict::Drop)];
        table.base(
            "filter-prerouting",
            at(BaseKind::Filter, Hook::Prerouting, BEFORE_TRACKING),
            vec![dropped(Side::Destination), dropped(Side::Source)],
        );
    }
    table
}
