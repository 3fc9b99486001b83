//! The reader, the writer and protobuf, held against objects of every type in the table.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail as tests do")]

#[path = "it/protobuf.rs"]
mod protobuf;
#[path = "it/reading.rs"]
mod reading;
#[path = "it/robust.rs"]
mod robust;
#[path = "it/samples.rs"]
mod samples;
