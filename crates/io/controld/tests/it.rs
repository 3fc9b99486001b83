//! The shells on a server in memory: real decisions, a real client, a transport that answers as the test says.

#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/doors.rs"]
mod doors;
#[path = "it/driver.rs"]
mod driver;
#[path = "it/extenders.rs"]
mod extenders;
#[path = "it/scheduler.rs"]
mod scheduler;
#[path = "it/world.rs"]
mod world;
