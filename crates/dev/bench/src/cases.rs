//! The cases, a file each, in the order in which they are run.

pub mod start;

pub mod idle;

pub mod pods;

pub mod scheduling;

pub mod shapes;

pub mod workloads;

pub mod requests;
