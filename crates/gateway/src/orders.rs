//! Invented laboratory and radiology orders, for demonstrations, tests and measurements.
//!
//! `ORM^O01` and `OML^O21` in turn, with patients that never were. MSH-10 is numbered per generator (`RAD-000017`), so
//! that whoever receives them can tell order and loss. The same prefix, seed and start time give the same bytes.

use std::fmt;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::time::Hl7Time;

/// 2026-01-05 08:00:00 UTC, when generated orders begin unless told otherwise.
const START_UNIX_MS: i64 = 1_767_600_000_000;

const FAMILY_NAMES: [&str; 16] = [
    "Abenteuer",
    "Blumenfeld",
    "Castellan",
    "Dragomir",
    "Eldertree",
    "Fjordling",
    "Grünwald",
    "Haverbrook",
    "Ízleik",
    "Juniper",
    "Kestrel",
    "Løvenskov",
    "Marigold",
    "Nightingale",
    "O'Wonder",
    "Peñaflor",
];
const GIVEN_NAMES: [&str; 12] = [
    "Ada", "Bo", "Cleo", "Dara", "Émile", "Fynn", "Greta", "Hollis", "Ines", "Jules", "Kai", "Lune",
];
const STREETS: [&str; 6] = [
    "Nowhere Lane",
    "Invented Street",
    "Example Avenue",
    "Sample Way",
    "Mock Mews",
    "Demo Drive",
];
const CITIES: [&str; 5] = [
    "Samplewick",
    "Nonesuch",
    "Exampleton",
    "Mockford",
    "Fablehaven",
];
const DOCTORS: [&str; 4] = [
    "1001^Quill^Rosa",
    "1002^Thorn^Anders",
    "1003^Vale^Mira",
    "1004^Wick^Tobias",
];

/// What can be ordered: universal service id (OBR-4) and diagnostic service section (OBR-24).
const SERVICES: [(&str, &str); 8] = [
    ("24323-8^Comprehensive metabolic panel^LN", "CH"),
    ("2345-7^Glucose^LN", "CH"),
    ("58410-2^CBC panel^LN", "HM"),
    ("600-7^Bacteria identified in blood by culture^LN", "MB"),
    ("30746-2^Portable XR Chest Views^LN", "RAD"),
    ("24558-9^US Abdomen^LN", "RAD"),
    ("882-1^ABO and Rh group^LN", "BLB"),
    ("54089-8^Newborn screening panel^LN", ""),
];

/// The two kinds of order generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// `ORM^O01`, version 2.3, original acknowledgement mode.
    Orm,
    /// `OML^O21`, version 2.5.1.
    Oml,
}

/// One generated order.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number, from 1.
    pub number: u64,
    /// MSH-10, for example `RAD-000017`.
    pub control_id: String,
    /// Its kind.
    pub kind: OrderKind,
    /// Whether PID-3 was left out, so that validate rejects it.
    pub broken: bool,
    /// The message.
    pub payload: Bytes,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("control_id", &self.control_id)
            .field("kind", &self.kind)
            .field("broken", &self.broken)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Generates orders without end; see the [module](self).
pub struct OrderGenerator {
    prefix: String,
    rng: StdRng,
    last: u64,
    start: Hl7Time,
    broken_every: Option<u64>,
    accept_acknowledgement: &'static str,
}

impl OrderGenerator {
    /// Orders whose control ids begin with `prefix`, invented from `seed`.
    pub fn new(prefix: impl Into<String>, seed: u64) -> Self {
        Self {
            prefix: prefix.into(),
            rng: StdRng::seed_from_u64(seed),
            last: 0,
            start: Hl7Time::from_unix_ms(START_UNIX_MS),
            broken_every: None,
            accept_acknowledgement: "",
        }
    }

    /// Every `n`th order lacks PID-3; none does for 0.
    pub fn broken_every(mut self, n: u64) -> Self {
        self.broken_every = Some(n).filter(|n| *n > 0);
        self
    }

    /// When the first order is written; each further one is a second later.
    pub fn starting(mut self, start: Hl7Time) -> Self {
        self.start = start;
        self
    }

    /// `OML^O21` orders ask for enhanced acknowledgement mode (MSH-15 `AL`, MSH-16 `NE`).
    pub fn enhanced(mut self) -> Self {
        self.accept_acknowledgement = "AL";
        self
    }

    /// The control id of order `number` of that prefix.
    pub fn control_id(prefix: &str, number: u64) -> String {
        format!("{prefix}-{number:06}")
    }

    /// The next order.
    pub fn next_order(&mut self) -> Order {
        self.last += 1;
        let number = self.last;
        let kind = if number % 2 == 1 {
            OrderKind::Orm
        } else {
            OrderKind::Oml
        };
        let broken = self.broken_every.is_some_and(|n| number.is_multiple_of(n));
        let control_id = Self::control_id(&self.prefix, number);
        let mut segments = vec![self.header(kind, &control_id, number)];
        segments.extend(self.patient(broken));
        segments.extend(self.request(kind, number));
        let payload = segments
            .into_iter()
            .map(|segment| segment + "\r")
            .collect::<String>()
            .into();
        Order {
            number,
            control_id,
            kind,
            broken,
            payload,
        }
    }

    fn time(&self, number: u64) -> Hl7Time {
        self.start
            .plus_seconds(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn header(&self, kind: OrderKind, control_id: &str, number: u64) -> String {
        let (message_type, version, acknowledgements) = match kind {
            OrderKind::Orm => ("ORM^O01", "2.3", "|".to_owned()),
            OrderKind::Oml => {
                let accept = self.accept_acknowledgement;
                let application = if accept.is_empty() { "" } else { "NE" };
                (
                    "OML^O21^OML_O21",
                    "2.5.1",
                    format!("{accept}|{application}"),
                )
            }
        };
        let time = self.time(number);
        let sender = &self.prefix;
        format!(
            "MSH|^~\\&|HIS-{sender}|SAMPLEWICK GENERAL|LIS|SAMPLEWICK LAB|{time}||{message_type}|{control_id}|P|{version}|||{acknowledgements}||UNICODE UTF-8"
        )
    }

    fn patient(&mut self, broken: bool) -> [String; 2] {
        let rng = &mut self.rng;
        let identifier = rng.random_range(100_000..1_000_000_u32);
        let identifier = if broken {
            String::new()
        } else {
            format!("{identifier}^^^SWG^MR")
        };
        let (family, given) = (pick(rng, &FAMILY_NAMES), pick(rng, &GIVEN_NAMES));
        let (year, month, day) = (
            rng.random_range(1930..2026_u32),
            rng.random_range(1..13_u32),
            rng.random_range(1..29_u32),
        );
        let sex = pick(rng, &["F", "M", "U"]);
        let house = rng.random_range(1..400_u32);
        let (street, city) = (pick(rng, &STREETS), pick(rng, &CITIES));
        let (ward, room) = (
            pick(rng, &["3W", "ICU", "ED", "PED", "NEO"]),
            rng.random_range(1..40_u32),
        );
        let doctor = pick(rng, &DOCTORS);
        [
            format!(
                "PID|1||{identifier}||{family}^{given}||{year}{month:02}{day:02}|{sex}|||{house} {street}^^{city}^ZZ^00000^XXX"
            ),
            format!("PV1|1|I|{ward}^{room}^1|||||||{doctor}"),
        ]
    }

    fn request(&mut self, kind: OrderKind, number: u64) -> Vec<String> {
        let time = self.time(number);
        let prefix = self.prefix.clone();
        let rng = &mut self.rng;
        let (service, section) = pick(rng, &SERVICES);
        let priority = pick(rng, &["R", "R", "R", "R", "A", "S"]);
        let doctor = pick(rng, &DOCTORS);
        let placer = format!("{prefix}P{number:06}^HIS");
        let glucose = rng.random_range(60..180_u32);
        let timing = if kind == OrderKind::Orm {
            format!("^^^^^{priority}")
        } else {
            String::new()
        };
        let mut segments = vec![format!("ORC|NW|{placer}|||||{timing}||{time}|||{doctor}")];
        if kind == OrderKind::Oml {
            segments.push(format!("TQ1|1||||||{time}||{priority}"));
        }
        segments.push(format!(
            "OBR|1|{placer}||{service}|||{time}|||||||||{doctor}||||||||{section}"
        ));
        segments.push("NTE|1||Generated order: no such patient exists".to_owned());
        segments.push(format!(
            "OBX|1|NM|2339-0^Glucose in blood^LN||{glucose}|mg/dL|||||F"
        ));
        if kind == OrderKind::Oml {
            segments.push(format!("SPM|1|{placer}||BLD^Whole blood^HL70487"));
        }
        segments
    }
}

impl Iterator for OrderGenerator {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        Some(self.next_order())
    }
}

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    *from
        .choose(rng)
        .expect("the tables of this module are not empty")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::collections::BTreeSet;

    use super::*;
    use crate::ack::AckMode;
    use crate::hl7::Message;
    use crate::msh::Msh;
    use crate::stages::{StageResult, enrich, route, validate};

    #[test]
    fn the_same_seed_gives_the_same_orders_and_another_seed_others() {
        let orders = |seed| {
            OrderGenerator::new("RAD", seed)
                .take(50)
                .collect::<Vec<_>>()
        };
        assert_eq!(orders(1), orders(1));
        assert_ne!(orders(1), orders(2));
    }

    #[test]
    fn orders_are_numbered_and_alternate_in_kind() {
        for (index, order) in OrderGenerator::new("RAD", 7).take(20).enumerate() {
            assert_eq!(order.number, index as u64 + 1);
            assert_eq!(order.control_id, format!("RAD-{:06}", index + 1));
            let msh = Msh::scan(&order.payload).unwrap();
            assert_eq!(msh.control_id().unwrap(), order.control_id.as_bytes());
            let expected = if index % 2 == 0 { "ORM^O01" } else { "OML^O21" };
            assert_eq!(msh.message_type().to_string(), expected);
            assert_eq!(AckMode::of(&msh), AckMode::Original);
            assert_eq!(msh.character_set(), b"UNICODE UTF-8");
        }
    }

    #[test]
    fn whole_orders_pass_every_stage_and_broken_ones_are_rejected_for_pid_3() {
        let mut broken = 0;
        for order in OrderGenerator::new("LAB", 3).broken_every(5).take(100) {
            match validate(&order.payload) {
                StageResult::Complete { .. } => assert!(!order.broken),
                StageResult::Reject { reason } => {
                    assert!(order.broken);
                    broken += 1;
                    assert_eq!(reason, "PID-3 patient identifier is missing");
                }
                StageResult::Filter { reason } => panic!("filtered: {reason}"),
            }
            assert!(matches!(
                enrich(&order.payload),
                StageResult::Complete {
                    payload: Some(_),
                    ..
                }
            ));
        }
        assert_eq!(broken, 20);
    }

    #[test]
    fn orders_go_to_several_laboratories_with_every_priority() {
        let (mut labs, mut priorities) = (BTreeSet::new(), BTreeSet::new());
        for order in OrderGenerator::new("RAD", 11).take(200) {
            let StageResult::Complete { headers, .. } = route(&order.payload) else {
                panic!("not routed")
            };
            labs.insert(headers[0].1.clone());
            priorities.insert(headers[1].1.clone());
        }
        assert!(
            labs.contains("radiology") && labs.contains("newborn-screening") && labs.len() >= 5,
            "{labs:?}"
        );
        assert_eq!(
            priorities.into_iter().collect::<Vec<_>>(),
            ["routine", "stat", "urgent"]
        );
    }

    #[test]
    fn enhanced_mode_is_asked_for_where_it_is_wanted() {
        let orders: Vec<_> = OrderGenerator::new("RAD", 1).enhanced().take(2).collect();
        assert_eq!(
            AckMode::of(&Msh::scan(&orders[0].payload).unwrap()),
            AckMode::Original
        );
        assert_eq!(
            AckMode::of(&Msh::scan(&orders[1].payload).unwrap()),
            AckMode::Always
        );
    }

    #[test]
    fn debug_output_holds_no_patient() {
        let order = OrderGenerator::new("RAD", 1).next_order();
        let message = Message::read(&order.payload).unwrap();
        let family = message.first("PID").unwrap().field(5).component(1);
        let family = std::str::from_utf8(family).unwrap();
        assert!(!family.is_empty());
        assert!(!format!("{order:?}").contains(family));
    }
}
