//! The frame of every controller: what it sees (a view), what it decides (a plan), and how it describes itself.
//! Nothing here touches the world; the driver in `io/controld` feeds views and carries plans out.

pub mod controller;
pub mod plan;
pub mod pod;
pub mod table;
pub mod view;

pub use controller::{Answer, Controller, Key, Outcome, Watch, WatchAll};
pub use plan::{Ask, EventKind, EventNote, Plan, Propagation, SigningOrder, Write};
pub use pod::PodFacts;
pub use table::ObjectTable;
pub use view::{Change, Index, Informed, Known, Sink, Surroundings, View, ViewExt, is_adopted};
