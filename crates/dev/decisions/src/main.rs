//! Gives the same clusters, made from a seed, to a kube-scheduler and to our core, and prints every decision in which
//! they differ. The kube-scheduler runs against an API of its own, served here: no store, no other component, and
//! thousands of clusters in a few minutes. `cargo xtask same-decisions` builds and runs it.

mod compare;
mod decision;

mod cases;
mod dice;
mod pods;
mod volumes;

mod api;
mod http;
mod ours;
mod rival;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;

use cases::{Case, World};
use compare::{Difference, Kind};
use decision::Decision;
use dice::Dice;
use ours::Ours;
use rival::Rival;

/// How often a case that differs is shown again.
const AGAIN: u32 = 2;

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
}

/// What both sides said of one showing of a case, and in what they differ.
struct Showing {
    case: Case,
    ours: Decision,
    theirs: Decision,
    differences: Vec<Difference>,
}

/// What was counted over all cases.
#[derive(Default)]
struct Tally {
    feasible: u64,
    refused: u64,
    made_room: u64,
    /// Cases without a feasible node, by what was said against nodes.
    reasons: BTreeMap<String, u64>,
    /// Cases that differ whenever they are shown, by kind.
    lasting: BTreeMap<Kind, u64>,
    /// Cases that differed in one showing and not in all.
    fleeting: BTreeMap<Kind, u64>,
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
        let case = |showing| Case::new(&mut Dice::new(arguments.seed, number), number, showing);
        let mut showings = vec![show(&mut rival, &world, case(0))?];
        let kept = compare::from_fresh(&showings[0].ours, &followed.decide_in_passing(&showings[0].case));
        if !showings[0].differences.is_empty() {
            for again in 1..=AGAIN {
                showings.push(show(&mut rival, &world, case(again))?);
            }
        }
        showings[0].differences.extend(kept);
        if arguments.case.is_some() || !showings[0].differences.is_empty() {
            print(&showings[0], arguments.seed);
        }
        tally.take(&showings);
    }
    tally.print(count, began.elapsed());
    ensure!(tally.lasting.is_empty(), "some decisions differ");
    Ok(())
}

/// What both say of a case that they see for the first time.
fn show(rival: &mut Rival, world: &World, case: Case) -> Result<Showing> {
    let mut fresh = Ours::new(world);
    fresh.put(&case);
    let ours = fresh.decide(&case);
    let theirs = rival.decide(&case, ours.victims.len())?;
    let differences = compare::differences(&ours, &theirs);
    Ok(Showing { case, ours, theirs, differences })
}

fn print(showing: &Showing, seed: u64) {
    let Showing { case, ours, theirs, differences } = showing;
    println!("case {} of seed {seed}:\n{case}\nours: {ours}\ntheirs: {theirs}", case.number);
    for difference in differences {
        println!("case {}: {difference}", case.number);
    }
}

impl Tally {
    fn take(&mut self, showings: &[Showing]) {
        let [first, again @ ..] = showings else { return };
        match (&first.ours.bound, &first.ours.nominated) {
            (Some(_), _) => self.feasible += 1,
            (None, Some(_)) => self.made_room += 1,
            (None, None) => self.refused += 1,
        }
        for reason in first.ours.reasons() {
            *self.reasons.entry(reason).or_default() += 1;
        }
        for Difference { kind, .. } in &first.differences {
            let shows = |again: &Showing| again.differences.iter().any(|found| found.kind == *kind);
            // What is kept from case to case is a matter of our side alone.
            let lasts = *kind == Kind::Memory || again.iter().all(shows);
            let counts = if lasts { &mut self.lasting } else { &mut self.fleeting };
            *counts.entry(*kind).or_default() += 1;
            if !lasts {
                println!("case {}: differed once, and not whenever it was shown again", first.case.number);
            }
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
        self.reasons.iter().for_each(|(reason, count)| println!("{count:>6} {reason}"));
        for (kind, count) in &self.lasting {
            println!("{count} differ in {kind}");
        }
        for (kind, count) in &self.fleeting {
            println!("{count} differed once in {kind}, and not whenever they were shown again");
        }
        if self.lasting.is_empty() {
            println!("no decision differs");
        }
    }
}
