//! Gives the same clusters, made from a seed, to a kube-scheduler and to our core, and prints every decision in which
//! they differ. The kube-scheduler runs against an API of its own, served here: no store, no other component, and
//! thousands of clusters in a few minutes. `cargo xtask same-decisions` builds and runs it.

mod compare;
mod decision;

mod cases;
mod dice;
mod pods;

mod api;
mod http;
mod ours;
mod rival;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;

use cases::Case;
use compare::{Difference, Kind};
use decision::Decision;
use dice::Dice;
use ours::Ours;
use rival::{Pace, Rival};

/// How long the news of a case is waited for when it is tried again after a difference.
const PATIENT: Duration = Duration::from_millis(300);

#[derive(Parser)]
#[command(name = "same-decisions", about = "Compares our scheduling decisions with a kube-scheduler's")]
struct Arguments {
    /// The kube-scheduler to compare with
    #[arg(long, value_name = "FILE")]
    scheduler: PathBuf,
    /// How many clusters to decide on
    #[arg(long, default_value_t = 3000)]
    cases: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this case of the seed, with all that both sides said
    #[arg(long)]
    case: Option<u64>,
    /// How many differing cases are printed whole
    #[arg(long, default_value_t = 5)]
    show: usize,
}

/// What was counted over all cases.
#[derive(Default)]
struct Tally {
    feasible: u64,
    refused: u64,
    made_room: u64,
    by_kind: BTreeMap<Kind, u64>,
    shown: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut rival = Rival::start(&arguments.scheduler)?;
    let world = cases::world();
    rival.set_world(&world);
    let mut followed = Ours::new(&world);
    let mut tally = Tally::default();
    let began = Instant::now();
    let numbers = arguments.case.map_or(0..arguments.cases, |case| case..case + 1);
    let count = numbers.end - numbers.start;
    for number in numbers {
        let case = Case::new(&mut Dice::new(arguments.seed, number), number);
        let differences = decide(&mut rival, &mut followed, &world, &case)?;
        tally.take(&arguments, &case, differences);
    }
    tally.print(count, began.elapsed());
    ensure!(tally.by_kind.is_empty(), "some decisions differ");
    Ok(())
}

/// What both say of a case, and where they differ. A difference is believed when it shows again with time to spare.
fn decide(
    rival: &mut Rival,
    followed: &mut Ours,
    world: &cases::World,
    case: &Case,
) -> Result<(Decision, Decision, Vec<Difference>)> {
    let mut fresh = Ours::new(world);
    fresh.put(case);
    let ours = fresh.decide(case);
    followed.put(case);
    let kept = followed.decide(case);
    followed.remove(case);
    let mut theirs = rival.decide(case, Pace::Quick, ours.victims.len())?;
    let mut differences = compare::differences(&ours, &theirs);
    if !differences.is_empty() {
        theirs = rival.decide(case, Pace::After(PATIENT), ours.victims.len())?;
        differences = compare::differences(&ours, &theirs);
    }
    differences.extend(compare::from_fresh(&ours, &kept));
    Ok((ours, theirs, differences))
}

impl Tally {
    fn take(&mut self, arguments: &Arguments, case: &Case, found: (Decision, Decision, Vec<Difference>)) {
        let (ours, theirs, differences) = found;
        match (&ours.bound, &ours.nominated) {
            (Some(_), _) => self.feasible += 1,
            (None, Some(_)) => self.made_room += 1,
            (None, None) => self.refused += 1,
        }
        for difference in &differences {
            *self.by_kind.entry(difference.kind).or_default() += 1;
        }
        let wanted = arguments.case.is_some() || (!differences.is_empty() && self.shown < arguments.show);
        if wanted {
            self.shown += 1;
            println!("case {} of seed {}:\n{case}", case.number, arguments.seed);
            println!("ours: {ours}\ntheirs: {theirs}");
        }
        for difference in differences {
            println!("case {}: {difference}", case.number);
        }
    }

    fn print(&self, cases: u64, took: Duration) {
        println!(
            "{cases} cases in {:.0} s: {} with a feasible node, {} with room made, {} refused",
            took.as_secs_f64(),
            self.feasible,
            self.made_room,
            self.refused
        );
        for (kind, count) in &self.by_kind {
            println!("{count} differ in {kind}");
        }
        if self.by_kind.is_empty() {
            println!("no decision differs");
        }
    }
}
