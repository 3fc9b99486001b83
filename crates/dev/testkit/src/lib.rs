//! Fakes that are written by hand: what tests of decisions stand on. Nothing that ships depends on this crate.

pub mod view;
pub mod witness;

pub use view::FakeView;
pub use witness::Witness;
