//! Where time, chance and tasks come from. Nothing else in the workspace starts a task, reads a clock or throws dice,
//! so that a simulation can take all three over.

pub mod clock;
pub mod dice;
pub mod scope;

pub use clock::Clock;
pub use dice::Dice;
pub use scope::{Closed, Scope};
