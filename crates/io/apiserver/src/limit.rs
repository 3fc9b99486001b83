//! Fourth step: how many requests are worked on at once. Reading and writing have seats of their own, so that neither
//! starves the other; superusers need none. Watches, exec and proxying hold a seat only while they start.

use std::sync::Arc;
use std::time::Duration;

use coracle_meta::status::Details;
use coracle_meta::{Status, User};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::request::RequestInfo;

const READING_MAX: usize = 400;
const WRITING_MAX: usize = 200;
const WAIT_MAX: Duration = Duration::from_secs(15);

pub struct Limits {
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

/// Held while a request is worked on; nothing for the exempt.
pub struct Seat(#[expect(dead_code, reason = "given back when dropped")] Option<OwnedSemaphorePermit>);

impl Default for Limits {
    fn default() -> Limits {
        Limits { reading: Arc::new(Semaphore::new(READING_MAX)), writing: Arc::new(Semaphore::new(WRITING_MAX)) }
    }
}

impl Limits {
    pub async fn seat(&self, user: &User, info: &RequestInfo) -> Result<Seat, Status> {
        let exempt = user.is_in("system:masters") || !info.is_resource();
        if exempt {
            return Ok(Seat(None));
        }
        let seats = match info.verb {
            "get" | "list" | "watch" => &self.reading,
            _ => &self.writing,
        };
        if let Ok(permit) = seats.clone().try_acquire_owned() {
            return Ok(Seat(Some(permit)));
        }
        match tokio::time::timeout(WAIT_MAX, seats.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Seat(Some(permit))),
            _ => Err(too_many()),
        }
    }
}

fn too_many() -> Status {
    let mut status = Status::new(429, "TooManyRequests", "Too many requests, please try again later.");
    status.details = Some(Box::new(Details { retry_after_seconds: 1, ..Details::default() }));
    status
}
