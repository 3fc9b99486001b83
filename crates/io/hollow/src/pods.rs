//! The pods of the fleet: what is read of them, what is decided, and what is written.

mod facts;
pub mod follow;
pub mod ledger;
mod life;
pub mod runner;
mod status;
#[cfg(test)]
mod tests;
