//! What the scheduler did, in numbers: how its tries went and how long they took, as kube-scheduler's metrics have it.
//! Plain data of a fixed size, so that the shell can copy it whenever somebody may look.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::queue::Tries;

/// Tries of a pod are told apart up to this many.
const TRIES_MAX: u32 = 15;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

/// How a try of a group of pods ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupResult {
    Scheduled,
    Unschedulable,
    WaitingOnPreemption,
    Error,
}

impl GroupResult {
    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupResult::Scheduled => "scheduled",
            GroupResult::Unschedulable => "unschedulable",
            GroupResult::WaitingOnPreemption => "waiting_on_preemption",
            GroupResult::Error => "error",
        }
    }
}

/// How many tries of groups there were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupTries {
    pub made: u64,
    /// How long they went on beside single steps, while extenders were asked, in all.
    pub asked_seconds: f64,
}

/// Observations by size. Bucket `n` holds those up to `first * 2^n` that are in none before; larger ones are in none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram<const N: usize> {
    pub first: f64,
    pub buckets: [u64; N],
    pub count: u64,
    pub sum: f64,
}

impl<const N: usize> Histogram<N> {
    pub fn new(first: f64) -> Histogram<N> {
        Histogram { first, buckets: [0; N], count: 0, sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        let mut bound = self.first;
        for bucket in &mut self.buckets {
            if value <= bound {
                *bucket += 1;
                return;
            }
            bound *= 2.0;
        }
    }

    /// The observations of both.
    pub fn with(mut self, other: &Histogram<N>) -> Histogram<N> {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(bucket, more)| *bucket += more);
        Histogram { count: self.count + other.count, sum: self.sum + other.sum, ..self }
    }

    /// Each bound, and how many observations are not above it.
    pub fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = std::iter::successors(Some(self.first), |bound| Some(bound * 2.0));
        let sums = self.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket;
            Some(*sum)
        });
        bounds.zip(sums)
    }
}

/// Of one profile: seconds from taking a pod from the queue until its try ended.
#[derive(Clone, Debug)]
pub struct ProfileCounts {
    pub name: String,
    pub scheduled: Histogram<15>,
    pub unschedulable: Histogram<15>,
    pub error: Histogram<15>,
}

#[derive(Clone, Debug)]
pub struct Counts {
    pub profiles: Vec<ProfileCounts>,
    /// Decisions made, whatever came of them.
    pub decisions: u64,
    /// Tries that scheduled pods needed.
    pub tries: Histogram<5>,
    /// Seconds from when a pod could first be tried until it was bound, by how many tries it took, up to `TRIES_MAX`.
    pub waits: BTreeMap<u32, Histogram<20>>,
    /// How tries of groups of pods ended, by profile's place and result.
    pub groups: BTreeMap<(usize, GroupResult), GroupTries>,
    /// Scheduled pods that only time brought up again.
    pub flushed: u64,
    pub preemptions: u64,
    pub victims: Histogram<7>,
}

impl Counts {
    pub fn new<'a>(profiles: impl Iterator<Item = &'a str>) -> Counts {
        let seconds = Histogram::new(0.001);
        let of = |name: &str| ProfileCounts {
            name: name.to_owned(),
            scheduled: seconds,
            unschedulable: seconds,
            error: seconds,
        };
        Counts {
            profiles: profiles.map(of).collect(),
            decisions: 0,
            tries: Histogram::new(1.0),
            waits: BTreeMap::new(),
            groups: BTreeMap::new(),
            flushed: 0,
            preemptions: 0,
            victims: Histogram::new(1.0),
        }
    }

    /// A try of a group of the profile at this place ended.
    pub fn group_ended(&mut self, of: (usize, GroupResult), asked: SignedDuration) {
        let tries = self.groups.entry(of).or_default();
        tries.made += 1;
        tries.asked_seconds += asked.as_secs_f64().max(0.0);
    }

    /// A try of a pod of the profile at this place ended.
    pub fn ended(&mut self, profile: usize, outcome: Outcome, tries: &Tries, now: Timestamp) {
        let since = |start: Timestamp| now.duration_since(start).as_secs_f64().max(0.0);
        let counts = &mut self.profiles[profile];
        match outcome {
            Outcome::Scheduled => counts.scheduled.observe(since(tries.began)),
            Outcome::Unschedulable => counts.unschedulable.observe(since(tries.began)),
            Outcome::Error => counts.error.observe(since(tries.began)),
        }
        if outcome == Outcome::Scheduled {
            let made = tries.made + 1;
            self.tries.observe(f64::from(made));
            let waits = self.waits.entry(made.min(TRIES_MAX)).or_insert(Histogram::new(0.01));
            waits.observe(since(tries.first));
            self.flushed += u64::from(tries.flushed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        let mut histogram = Histogram::<3>::new(1.0);
        [0.5, 1.0, 3.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.cumulated().collect::<Vec<_>>(), [(1.0, 2), (2.0, 2), (4.0, 3)]);
        assert_eq!((histogram.count, histogram.sum), (4, 13.5));
    }

    #[test]
    fn a_scheduled_pod_counts_from_when_it_could_first_be_tried() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut counts = Counts::new(["default-scheduler"].into_iter());
        let tries = Tries { made: 19, first: at(0), since: at(0), began: at(9), flushed: true };
        counts.ended(0, Outcome::Unschedulable, &tries, at(9));
        counts.ended(0, Outcome::Scheduled, &tries, at(10));
        assert_eq!((counts.profiles[0].scheduled.sum, counts.profiles[0].unschedulable.count), (1.0, 1));
        assert_eq!((counts.tries.sum, counts.waits[&15].sum, counts.flushed), (20.0, 10.0, 1));
    }
}
