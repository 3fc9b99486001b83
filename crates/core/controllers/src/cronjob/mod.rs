//! CronJobs: a Job at each scheduled time, with what to do when times were missed or the last Job still runs, and a
//! bounded history.

mod due;
mod schedule;
#[cfg(test)]
mod tests;

use std::time::Duration;

use coracle_meta::{Resource, Status};
use coracle_reconcile::{Controller, EventKind, Index, Key, Outcome, Plan, Propagation, View, Watch, Write};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::job::JOBS;
use crate::shape::{Item, condition, controller_key, remove, rfc3339, status_of, time};
use due::Due;
use schedule::Schedule;

pub const CRON_JOBS: Resource = Resource::new("batch", "cronjobs");
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A little after the minute, so that no clock is still before it.
const DELTA: Duration = Duration::from_millis(100);

pub struct CronJob;

impl Controller for CronJob {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(CRON_JOBS),
            Watch { resource: JOBS, keys: |_, job| controller_key(job, "batch", "CronJob").into_iter().collect() },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(cron) = Item::get(view, &CRON_JOBS, key) else { return Plan::default() };
        let mut jobs = Item::all(view.by_index(&JOBS, Index::Owner, cron.uid()));
        jobs.retain(|job| cron.controls(job.meta()));
        let status = status_of(&cron);
        let create = last.refusal(|write| matches!(write, Write::Create { .. }));
        let delete = last.refusal(|write| matches!(write, Write::Delete { .. }));
        let plan = Plan::default();
        Decision { view, cron, jobs, status, refused: (create, delete), now, plan }.decide()
    }
}

struct Decision<'a> {
    view: &'a dyn View,
    cron: Item,
    jobs: Vec<Item>,
    status: Value,
    /// Why a job could not be made, or not be deleted.
    refused: (Option<&'a Status>, Option<&'a Status>),
    now: Timestamp,
    plan: Plan,
}

/// `Complete` or `Failed`, once a job is.
fn ending(job: &Item) -> Option<&'static str> {
    let is_true = |kind: &&str| condition(job.at("/status"), kind).is_some_and(|found| found["status"] == "True");
    ["Complete", "Failed"].into_iter().find(|kind| is_true(kind))
}

impl Decision<'_> {
    fn decide(mut self) -> Plan {
        self.follow_jobs();
        if !self.cron.meta().is_deleting() {
            self.start_due();
        }
        self.drop_history();
        let status = std::mem::take(&mut self.status);
        self.plan.writes.extend(self.cron.status_write(&CRON_JOBS, &status));
        self.plan
    }

    fn tell(&mut self, kind: EventKind, reason: &'static str, message: String) {
        self.plan.events.push(self.cron.note(kind, reason, message));
    }

    fn active(&self) -> Vec<Value> {
        self.status["active"].as_array().cloned().unwrap_or_default()
    }

    fn set_active(&mut self, active: Vec<Value>) {
        if active.is_empty() {
            remove(&mut self.status, "active");
        } else {
            self.status["active"] = json!(active);
        }
    }

    /// Brings the list of active jobs up to date: what was started is added, what ended or is gone is taken out.
    fn follow_jobs(&mut self) {
        let mut active = self.active();
        for job in self.jobs.clone() {
            let listed = active.iter().any(|entry| entry["uid"] == job.uid());
            match ending(&job) {
                None if listed => {}
                None if job.annotation(SCHEDULED).is_some() => active.push(reference(&job)),
                None => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    self.tell(EventKind::Warning, "UnexpectedJob", message);
                }
                Some(end) => {
                    if listed {
                        active.retain(|entry| entry["uid"] != job.uid());
                        let message = format!("Saw completed job: {}, condition: {end}", job.name());
                        self.tell(EventKind::Normal, "SawCompletedJob", message);
                    }
                    self.note_success(&job, end);
                }
            }
        }
        let (kept, missing): (Vec<Value>, Vec<Value>) = active.into_iter().partition(|entry| {
            let name = entry["name"].as_str().unwrap_or_default();
            let same_uid = |job: &Item| entry["uid"] == job.uid();
            self.jobs.iter().any(same_uid) || self.view.get(&JOBS, self.cron.namespace(), name).is_some()
        });
        for entry in missing {
            let message = format!("Active job went missing: {}", entry["name"].as_str().unwrap_or_default());
            self.tell(EventKind::Normal, "MissingJob", message);
        }
        self.set_active(kept);
    }

    fn note_success(&mut self, job: &Item, end: &str) {
        let completed = time(job.at("/status/completionTime")).filter(|_| end == "Complete");
        let known = time(&self.status["lastSuccessfulTime"]);
        if completed > known {
            self.status["lastSuccessfulTime"] = job.at("/status/completionTime").clone();
        }
    }

    fn zone(&mut self) -> Option<TimeZone> {
        let name = self.cron.text("/spec/timeZone").to_owned();
        if name.is_empty() {
            return Some(TimeZone::UTC);
        }
        match TimeZone::get(&name) {
            Ok(zone) => Some(zone),
            Err(error) => {
                let message = format!("invalid timeZone: \"{name}\": {error}");
                self.tell(EventKind::Warning, "UnknownTimeZone", message);
                None
            }
        }
    }

    fn schedule(&mut self, zone: TimeZone) -> Option<Schedule> {
        let text = self.cron.text("/spec/schedule").to_owned();
        if text.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule \"{text}\" is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.tell(EventKind::Warning, "UnsupportedSchedule", message);
        }
        match Schedule::parse(&text, zone) {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                let message = format!("unparseable schedule: \"{text}\" : {error}");
                self.tell(EventKind::Warning, "UnparseableSchedule", message);
                None
            }
        }
    }

    fn start_due(&mut self) {
        let Some(zone) = self.zone() else { return };
        if self.cron.at("/spec/suspend") == true {
            return;
        }
        let Some(schedule) = self.schedule(zone.clone()) else { return };
        let deadline = self.cron.at("/spec/startingDeadlineSeconds").as_i64();
        let last = time(&self.status["lastScheduleTime"]);
        let earliest = last.unwrap_or_else(|| self.cron.created());
        match due::find(&schedule, earliest, deadline, self.now) {
            Due::Invalid(message) => {
                let message = format!("invalid schedule: {} : {message}", self.cron.text("/spec/schedule"));
                return self.tell(EventKind::Warning, "InvalidSchedule", message);
            }
            Due::Nothing => {}
            Due::At { time, too_many } => {
                if too_many {
                    let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                    self.tell(EventKind::Warning, "TooManyMissedTimes", message.to_owned());
                }
                self.start_unless_held(time, deadline, zone);
            }
        }
        if let Some(next) = due::next(&schedule, time(&self.status["lastScheduleTime"]).unwrap_or(earliest), self.now) {
            let left = Duration::try_from(next.duration_since(self.now)).unwrap_or_default();
            self.plan.wake_by(left + DELTA);
        }
    }

    fn start_unless_held(&mut self, at: Timestamp, deadline: Option<i64>, zone: TimeZone) {
        let late = self.now.duration_since(at).as_secs_f64();
        if deadline.is_some_and(|deadline| late > deadline as f64) {
            let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {at}");
            return self.tell(EventKind::Warning, "MissSchedule", message);
        }
        let name = format!("{}-{}", self.cron.name(), at.as_second().div_euclid(60));
        let active = self.active();
        let known = active.iter().any(|entry| entry["name"] == *name);
        if time(&self.status["lastScheduleTime"]) == Some(at) {
            return;
        }
        if known || self.jobs.iter().any(|job| job.name() == name) {
            self.status["lastScheduleTime"] = json!(rfc3339(at));
            return;
        }
        match self.cron.text("/spec/concurrencyPolicy") {
            "Forbid" if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.tell(EventKind::Normal, "JobAlreadyActive", message.to_owned());
            }
            "Replace" => self.delete_active(&active),
            _ => {}
        }
        if self.view.get(&JOBS, self.cron.namespace(), &name).is_some() {
            return;
        }
        self.create(name, at, zone);
    }

    fn delete_active(&mut self, active: &[Value]) {
        let running: Vec<Item> =
            self.jobs.iter().filter(|job| active.iter().any(|entry| entry["uid"] == job.uid())).cloned().collect();
        for job in running {
            self.delete(&job);
        }
    }

    fn delete(&mut self, job: &Item) {
        if let Some(error) = self.refused.1.take() {
            self.tell(EventKind::Warning, "FailedDelete", format!("Deleted job: {}", error.message));
        }
        let mut write = job.delete(&JOBS);
        if let Write::Delete { propagation, .. } = &mut write {
            *propagation = Some(Propagation::Background);
        }
        let mut active = self.active();
        active.retain(|entry| entry["uid"] != job.uid());
        self.set_active(active);
        self.write(write, "SuccessfulDelete", "Deleted job {name}");
    }

    fn write(&mut self, write: Write, reason: &'static str, message: &str) {
        let mut note = self.cron.note(EventKind::Normal, reason, message);
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
        self.plan.writes.push(write);
    }

    /// The job joins the list of active ones when it is seen: only then is its uid known.
    fn create(&mut self, name: String, at: Timestamp, zone: TimeZone) {
        if let Some(error) = self.refused.0 {
            self.tell(EventKind::Warning, "FailedCreate", format!("Error creating job: {}", error.message));
        }
        let scheduled = at.to_zoned(zone);
        let format = if scheduled.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
        let scheduled = scheduled.strftime(format).to_string();
        let template = self.cron.at("/spec/jobTemplate");
        let mut metadata = json!({"name": name, "annotations": template["metadata"]["annotations"],
            "ownerReferences": [self.cron.controller_reference("batch/v1", "CronJob")]});
        metadata["annotations"][SCHEDULED] = json!(scheduled);
        if !template["metadata"]["labels"].is_null() {
            metadata["labels"] = template["metadata"]["labels"].clone();
        }
        let object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]});
        let namespace = self.cron.namespace().to_owned();
        self.write(Write::Create { resource: JOBS, namespace, object }, "SuccessfulCreate", "Created job {name}");
        self.status["lastScheduleTime"] = json!(rfc3339(at));
    }

    /// The oldest finished jobs beyond each limit go.
    fn drop_history(&mut self) {
        for (end, limit) in
            [("Complete", "/spec/successfulJobsHistoryLimit"), ("Failed", "/spec/failedJobsHistoryLimit")]
        {
            let Some(limit) = self.cron.at(limit).as_u64() else { continue };
            let mut ended: Vec<Item> =
                self.jobs.iter().filter(|job| ending(job) == Some(end) && !job.meta().is_deleting()).cloned().collect();
            ended.sort_by_key(|job| {
                let start = time(job.at("/status/startTime"));
                (start.is_none(), start, job.name().to_owned())
            });
            let surplus = ended.len().saturating_sub(limit as usize);
            ended.iter().take(surplus).for_each(|job| self.delete(job));
        }
    }
}

fn reference(job: &Item) -> Value {
    json!({"kind": "Job", "namespace": job.namespace(), "name": job.name(), "uid": job.uid(),
        "apiVersion": "batch/v1", "resourceVersion": job.object.revision.to_string()})
}
