//! What the laboratory saw beside what the cluster says, and whether they agree.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use ordo_client::proto::Interface;
use ordo_gateway::lab::Lab;
use serde::Serialize;

use super::INTERFACES;
use super::faults::Faults;
use super::feed::Fed;
use super::letters::{Letter, same_effects};
use super::watch::Seen;

/// The end of the demonstration.
#[derive(Debug, Serialize)]
pub struct Report {
    clean: bool,
    interfaces: Vec<LaneReport>,
    problems: Vec<String>,
    /// From sending to the laboratory, at the MLLP edges.
    from_sent: Option<Latency>,
    /// From the gateway's acknowledgement to the laboratory.
    from_accepted: Option<Latency>,
    faults: Option<Faults>,
    #[serde(skip)]
    seen: Seen,
}

/// One interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LaneReport {
    interface: String,
    hospital: Hospital,
    lab: LabSaw,
    ordo: OrdoSays,
}

/// What the sender knows.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Hospital {
    sent: u64,
    accepted: u64,
    /// Accepted, and the same as one accepted before.
    repeated: u64,
    refused: u64,
    /// Accepted, and not skipped by the cluster.
    expected: u64,
    /// Of those: with the MSH-10 of an earlier one of another sender, so that the laboratory discards them.
    same_control_id: u64,
}

/// What the laboratory saw.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct LabSaw {
    received: u64,
    filed: u64,
    out_of_order: u64,
    lost: u64,
    unexpected: u64,
    repeats_on_the_wire: u64,
    duplicated_effects: u64,
}

/// What the cluster says.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct OrdoSays {
    sequences: u64,
    delivered: u64,
    skipped: u64,
    dead_letters: u64,
    held: u64,
}

/// How long deliveries took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    count: u64,
    min_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Latency {
    /// None of nothing.
    fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        // Whole microseconds: more digits would only look exact.
        let ms = |duration: &Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        // The smallest sample that at least so many percent are no larger than.
        let percentile =
            |percent: usize| samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1));
        Some(Self {
            count: samples.len() as u64,
            min_ms: ms(samples.first()?),
            p50_ms: ms(percentile(50)?),
            p99_ms: ms(percentile(99)?),
            max_ms: ms(samples.last()?),
        })
    }

    fn text(&self) -> String {
        let Self {
            count,
            min_ms,
            p50_ms,
            p99_ms,
            max_ms,
        } = self;
        format!(
            "min {min_ms:.2}  p50 {p50_ms:.2}  p99 {p99_ms:.2}  max {max_ms:.2} ms  ({count} messages)"
        )
    }
}

impl Report {
    /// Without its interfaces yet.
    pub fn new(mut seen: Seen, faults: Option<Faults>) -> Self {
        let problems = std::mem::take(&mut seen.problems);
        Self {
            clean: problems.is_empty(),
            interfaces: Vec::new(),
            problems,
            from_sent: Latency::of(std::mem::take(&mut seen.from_sent)),
            from_accepted: Latency::of(std::mem::take(&mut seen.from_accepted)),
            faults,
            seen,
        }
    }

    /// Holds what the laboratory filed for an interface against what it should have.
    pub fn add(
        &mut self,
        lane: usize,
        letters: &[Letter],
        fed: &Fed,
        lab: &Lab,
        interface: &Interface,
    ) {
        let name = INTERFACES[lane].0;
        let skipped: HashSet<_> = self.seen.lanes[lane].skipped.iter().copied().collect();
        let accepted = fed.accepted.iter().map(|place| &letters[*place]);
        let expected: Vec<_> = accepted
            .filter(|letter| letter.id.is_none_or(|id| !skipped.contains(&id)))
            .collect();
        let mut known = HashSet::new();
        let first = expected
            .iter()
            .filter(|letter| known.insert(&letter.control_id));
        let ids: Vec<_> = first.map(|letter| letter.control_id.clone()).collect();
        let judgement = lab.judge(name, &ids);
        // To Ordo, which looks at the sender too, the others are different messages.
        let same_control_id = (expected.len() - ids.len()) as u64;
        let summary = lab.summary();
        let seen = summary.interfaces.get(name).copied().unwrap_or_default();
        let same = same_effects(expected.iter().copied());
        let states = &interface.destinations;
        let report = LaneReport {
            interface: name.to_owned(),
            hospital: Hospital {
                sent: fed.sent(),
                accepted: fed.accepted.len() as u64,
                repeated: fed.repeated,
                refused: fed.refused,
                expected: expected.len() as u64,
                same_control_id,
            },
            lab: LabSaw {
                received: seen.received,
                filed: judgement.filed,
                out_of_order: judgement.out_of_order,
                lost: judgement.lost.len() as u64,
                unexpected: judgement.unexpected.len() as u64,
                repeats_on_the_wire: judgement.repeats.saturating_sub(same_control_id),
                duplicated_effects: judgement.duplicated_effects.saturating_sub(same),
            },
            ordo: OrdoSays {
                sequences: interface.last_sequence,
                delivered: states.iter().map(|state| state.delivered).sum(),
                skipped: states.iter().map(|state| state.skipped).sum(),
                dead_letters: interface.dead_letters,
                held: self.seen.lanes[lane].held,
            },
        };
        self.problems
            .extend(report.disagreements(skipped.len() as u64));
        self.clean = self.problems.is_empty();
        self.interfaces.push(report);
    }

    /// Nothing is out of order, lost or duplicated in effect, and everybody says the same.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// For people.
    pub fn text(&self, with_latency: bool) -> String {
        let mut text = String::new();
        for lane in &self.interfaces {
            text.push_str(&lane.text());
        }
        text.push('\n');
        if with_latency {
            let figures = [
                ("sent → delivered (MLLP to MLLP)", &self.from_sent),
                ("accepted → delivered", &self.from_accepted),
            ];
            for (name, latency) in figures {
                let figures = latency
                    .as_ref()
                    .map_or_else(|| "nothing was delivered".to_owned(), Latency::text);
                writeln!(text, "{name:<32} {figures}").expect("a String takes everything");
            }
            text.push('\n');
        }
        if self.clean {
            text.push_str("Nothing was out of order, lost or duplicated in effect; the laboratory and Ordo agree.");
        } else {
            text.push_str("It did NOT go well:");
            for problem in &self.problems {
                write!(text, "\n  {problem}").expect("a String takes everything");
            }
        }
        text
    }
}

impl LaneReport {
    /// Everything that must be equal and is not, or must be nothing and is something. `skipped` is how many messages
    /// the cluster said it skipped when it was asked for each.
    fn disagreements(&self, skipped: u64) -> Vec<String> {
        let Self {
            interface,
            hospital,
            lab,
            ordo,
        } = self;
        let distinct = hospital.expected - hospital.same_control_id;
        let none = [
            ("messages out of order at the laboratory", lab.out_of_order),
            ("messages lost", lab.lost),
            (
                "messages at the laboratory that were not to go there",
                lab.unexpected,
            ),
            ("effects duplicated", lab.duplicated_effects),
        ];
        let equal = [
            (
                "accepted by the gateway",
                hospital.accepted,
                "sequences",
                ordo.sequences,
            ),
            (
                "delivered and skipped",
                ordo.delivered + ordo.skipped,
                "sequences",
                ordo.sequences,
            ),
            (
                "expected at the laboratory",
                hospital.expected,
                "delivered, says Ordo",
                ordo.delivered,
            ),
            (
                "different control ids expected",
                distinct,
                "filed by the laboratory",
                lab.filed,
            ),
            (
                "skipped, one by one",
                skipped,
                "skipped, says Ordo",
                ordo.skipped,
            ),
        ];
        let none = none
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .map(|(what, count)| format!("{count} {what}"));
        let equal = equal
            .into_iter()
            .filter(|(_, one, _, other)| one != other)
            .map(|(what, one, than, other)| format!("{one} {what}, but {other} {than}"));
        none.chain(equal)
            .map(|text| format!("{interface}: {text}"))
            .collect()
    }

    fn text(&self) -> String {
        let Self {
            interface,
            hospital,
            lab,
            ordo,
        } = self;
        let mut sent = vec![
            ("sent", hospital.sent),
            ("accepted", hospital.accepted),
            ("refused", hospital.refused),
        ];
        if hospital.repeated > 0 {
            sent.push(("sent twice", hospital.repeated));
        }
        if hospital.same_control_id > 0 {
            sent.push(("same MSH-10", hospital.same_control_id));
        }
        let saw = [
            ("received", lab.received),
            ("out of order", lab.out_of_order),
            ("lost", lab.lost),
            ("repeats on the wire", lab.repeats_on_the_wire),
            ("duplicated effects", lab.duplicated_effects),
        ];
        let says = [
            ("sequences", ordo.sequences),
            ("delivered", ordo.delivered),
            ("skipped", ordo.skipped),
            ("dead letters", ordo.dead_letters),
            ("held for order", ordo.held),
        ];
        let cell = |cells: &[(&str, u64)], row: usize, width: usize| match cells.get(row) {
            Some((name, count)) => format!("{name:<width$}{count:>6}"),
            None => " ".repeat(width + 6),
        };
        let mut text = format!(
            "\n{interface}\n  {:<20}   {:<27}   {}\n",
            "the hospital", "the lab saw", "ordo says"
        );
        for row in 0..saw.len() {
            let (sent, saw, says) = (
                cell(&sent, row, 14),
                cell(&saw, row, 21),
                cell(&says, row, 16),
            );
            let line = format!("  {sent}   {saw}   {says}");
            writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn lane() -> LaneReport {
        LaneReport {
            interface: "radiology".to_owned(),
            hospital: Hospital {
                sent: 100,
                accepted: 100,
                expected: 96,
                ..Hospital::default()
            },
            lab: LabSaw {
                received: 97,
                filed: 96,
                repeats_on_the_wire: 1,
                ..LabSaw::default()
            },
            ordo: OrdoSays {
                sequences: 100,
                delivered: 96,
                skipped: 4,
                ..OrdoSays::default()
            },
        }
    }

    #[test]
    fn an_interface_on_which_all_agree_has_no_problems() {
        assert_eq!(lane().disagreements(4), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let mut lost = lane();
        (lost.lab.lost, lost.lab.filed) = (1, 95);
        let problems = lost.disagreements(4);
        assert_eq!(problems[0], "radiology: 1 messages lost");
        assert!(
            problems[1].contains("96 different control ids expected, but 95 filed"),
            "{problems:?}"
        );
        let mut doubled = lane();
        doubled.lab.duplicated_effects = 2;
        assert_eq!(
            doubled.disagreements(4),
            ["radiology: 2 effects duplicated"]
        );
        let mut silent = lane();
        silent.ordo.skipped = 3;
        assert_eq!(silent.disagreements(4).len(), 2);
    }

    #[test]
    fn percentiles_are_samples() {
        let samples = (1..=200).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(samples).unwrap();
        assert_eq!(
            (latency.count, latency.min_ms, latency.max_ms),
            (200, 1.0, 200.0)
        );
        assert_eq!((latency.p50_ms, latency.p99_ms), (100.0, 198.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn programs_read_the_figures_by_interface() {
        let mut report = Report::new(Seen::default(), None);
        report.interfaces.push(lane());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["clean"], true);
        assert_eq!(json["interfaces"][0]["lab"]["filed"], 96);
        assert_eq!(json["interfaces"][0]["ordo"]["delivered"], 96);
    }
}
