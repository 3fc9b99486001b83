//! The scheduler as a whole, fed with objects as the API has them.

#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/devices.rs"]
mod devices;
#[path = "it/extenders.rs"]
mod extenders;
#[path = "it/feasibility.rs"]
mod feasibility;
#[path = "it/gangs.rs"]
mod gangs;
#[path = "it/gangs_asked.rs"]
mod gangs_asked;
#[path = "it/kept.rs"]
mod kept;
#[path = "it/naive.rs"]
mod naive;
#[path = "it/preemption.rs"]
mod preemption;
#[path = "it/queues.rs"]
mod queues;
#[path = "it/same.rs"]
mod same;
#[path = "it/scores.rs"]
mod scores;
#[path = "it/storage.rs"]
mod storage;
#[path = "it/wakes.rs"]
mod wakes;
