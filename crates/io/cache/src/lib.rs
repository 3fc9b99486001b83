//! The watch cache, and the store as it needs to be: the one component that feeds on a store's list and watch, and
//! from which lists, watches, views and consistent reads are answered.

pub mod store;
