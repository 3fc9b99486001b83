//! Everything that needs the kernel's raw doors. It takes plans as data and runs them; it decides nothing.

pub mod netlink;
pub mod netns;
