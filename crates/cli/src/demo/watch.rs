//! Follows every message and prints what becomes of it.
//!
//! That a message was delivered is the laboratory's word, that one was skipped is the cluster's: it is asked for each
//! sequence that the laboratory did not get before the next.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ordo_client::proto::{Message, MessageEventKind, MessageStatus};
use ordo_client::{Admin, MessageKey, Uuid};
use ordo_gateway::stages::DEMO_STAGES;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};

use super::INTERFACES;
use super::feed::Reply;
use super::letters::{Letter, Letters};
use super::screen::{Line, Screen, Tone};
use crate::views;

/// How often the cluster is asked for what was skipped at the end of an interface.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Something that happened to a message. `lane` is the interface's place.
#[derive(Debug)]
pub enum Event {
    /// It leaves the hospital.
    Sent {
        lane: usize,
        place: usize,
        at: Instant,
    },
    /// The gateway replied.
    Answered {
        lane: usize,
        place: usize,
        at: Instant,
        reply: Reply,
    },
    /// A worker is about to report.
    Worked {
        lane: usize,
        id: Uuid,
        sequence: u64,
        stage: usize,
        finish: Finish,
    },
    /// It is at the laboratory.
    Arrived { lane: usize, id: Uuid, at: Instant },
    /// Nothing more comes.
    End,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// On to the next stage.
    Done,
    /// Rejected or filtered.
    Out,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// By interface.
    pub lanes: Vec<SeenLane>,
    /// From sending to the laboratory.
    pub from_sent: Vec<Duration>,
    /// From the gateway's acknowledgement to the laboratory.
    pub from_accepted: Vec<Duration>,
    /// What must not happen.
    pub problems: Vec<String>,
}

/// What was seen on one interface.
#[derive(Debug, Default)]
pub struct SeenLane {
    /// Ids of messages that the cluster skipped.
    pub skipped: Vec<Uuid>,
    /// How many messages were through their stages before one ahead of them was.
    pub held: u64,
}

/// The watch.
pub struct Watch<'a> {
    lanes: Vec<Lane<'a>>,
    admin: Admin,
    screen: &'a Screen,
    seen: Seen,
    total: u64,
    ended: bool,
}

struct Lane<'a> {
    name: &'static str,
    letters: &'a [Letter],
    by_id: HashMap<Uuid, usize>,
    tracks: Vec<Track>,
    /// By sequence: how many stages are done.
    stages_done: HashMap<u64, usize>,
    /// Sequences beyond `head` that need no more work.
    finished: BTreeSet<u64>,
    /// The first sequence that needs work.
    head: u64,
    /// The first sequence of which nothing was printed.
    next: u64,
}

#[derive(Clone, Copy, Default)]
struct Track {
    sent: Option<Instant>,
    accepted: Option<Instant>,
    arrived: bool,
    sequence: Option<u64>,
}

impl<'a> Watch<'a> {
    /// Knows what will be sent.
    pub fn new(letters: &'a Letters, admin: Admin, screen: &'a Screen) -> Self {
        let lanes = INTERFACES
            .iter()
            .zip(letters)
            .map(|((name, _), letters)| Lane::new(name, letters));
        let seen = Seen {
            lanes: INTERFACES.iter().map(|_| SeenLane::default()).collect(),
            ..Seen::default()
        };
        let total = letters.iter().map(|letters| letters.len() as u64).sum();
        Self {
            lanes: lanes.collect(),
            admin,
            screen,
            seen,
            total,
            ended: false,
        }
    }

    /// Watches until [`Event::End`].
    pub async fn run(mut self, mut events: UnboundedReceiver<Event>) -> Result<Seen> {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.ended {
            tokio::select! {
                biased;
                event = events.recv() => self.take(event.unwrap_or(Event::End)).await?,
                _ = look.tick() => self.look(&mut events).await?,
            }
        }
        self.look(&mut events).await?;
        Ok(self.seen)
    }

    async fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Sent { lane, place, at } => self.lanes[lane].tracks[place].sent = Some(at),
            Event::Answered {
                lane,
                place,
                at,
                reply,
            } => self.answered(lane, place, at, &reply),
            Event::Worked {
                lane,
                id,
                sequence,
                stage,
                finish,
            } => self.worked(lane, id, sequence, stage, finish),
            Event::Arrived { lane, id, at } => self.arrived(lane, id, at).await?,
            Event::End => self.ended = true,
        }
        let done = self.lanes.iter().map(|lane| lane.next - 1).sum();
        self.screen.progress(done, self.total);
        Ok(())
    }

    fn answered(&mut self, lane: usize, place: usize, at: Instant, reply: &Reply) {
        let lane = &mut self.lanes[lane];
        match reply {
            Reply::Accepted => {
                lane.tracks[place].accepted.get_or_insert(at);
            }
            Reply::Refused { code, text } => {
                let letter = &lane.letters[place];
                let text = if letter.label == letter.control_id {
                    format!("{code}: {text}")
                } else {
                    format!("{code} to {}: {text}", letter.label)
                };
                lane.print(self.screen, letter, None, "REFUSED", Tone::Notable, &text);
            }
        }
    }

    fn worked(&mut self, lane: usize, id: Uuid, sequence: u64, stage: usize, finish: Finish) {
        let seen = &mut self.seen.lanes[lane];
        let lane = &mut self.lanes[lane];
        let Some(&place) = lane.by_id.get(&id) else {
            return;
        };
        lane.tracks[place].sequence = Some(sequence);
        let done = lane.stages_done.entry(sequence).or_default();
        *done = (*done).max(stage + 1);
        let is_last = stage + 1 == DEMO_STAGES.len();
        if !(is_last || finish == Finish::Out) || !lane.finish(sequence) {
            return;
        }
        if finish == Finish::Done && sequence > lane.head {
            seen.held += 1;
            let head = lane.head;
            let waits = match lane.stages_done.get(&head).copied().unwrap_or(0) {
                done if done < DEMO_STAGES.len() => {
                    format!("behind #{head}, which is in {}", DEMO_STAGES[done])
                }
                _ => format!("behind #{head}"),
            };
            lane.print(
                self.screen,
                &lane.letters[place],
                Some(sequence),
                "HELD",
                Tone::Faint,
                &waits,
            );
        }
    }

    async fn arrived(&mut self, lane: usize, id: Uuid, at: Instant) -> Result<()> {
        let Some(&place) = self.lanes[lane].by_id.get(&id) else {
            let name = self.lanes[lane].name;
            self.seen.problems.push(format!(
                "{name}: the laboratory got {id}, which was never sent"
            ));
            return Ok(());
        };
        let track = self.lanes[lane].tracks[place];
        let sequence = match track.sequence {
            Some(sequence) => sequence,
            None => self.message(lane, MessageKey::Id(id)).await?.sequence,
        };
        if track.arrived {
            let letter = &self.lanes[lane].letters[place];
            let text = "on the wire once more; the laboratory discards it";
            self.lanes[lane].print(
                self.screen,
                letter,
                Some(sequence),
                "REPEATED",
                Tone::Faint,
                text,
            );
            return Ok(());
        }
        self.lanes[lane].tracks[place].arrived = true;
        self.skipped_before(lane, sequence).await?;
        let lane = &mut self.lanes[lane];
        let latency = track.sent.map(|sent| at.saturating_duration_since(sent));
        self.seen.from_sent.extend(latency);
        // The laboratory may have it before the hospital has its acknowledgement.
        let accepted = track.accepted.map_or(Duration::ZERO, |accepted| {
            at.saturating_duration_since(accepted)
        });
        self.seen.from_accepted.push(accepted);
        let text = latency
            .map(|latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3))
            .unwrap_or_default();
        let letter = &lane.letters[place];
        if sequence < lane.next {
            self.seen.problems.push(format!(
                "{} #{sequence} arrived after #{}",
                lane.name,
                lane.next - 1
            ));
            lane.print(
                self.screen,
                letter,
                Some(sequence),
                "DISORDER",
                Tone::Bad,
                &text,
            );
        } else {
            lane.print(
                self.screen,
                letter,
                Some(sequence),
                "DELIVERED",
                Tone::Good,
                &text,
            );
            lane.next = sequence + 1;
        }
        Ok(())
    }

    /// Asks the cluster how far each interface is, and then for every sequence that the laboratory did not get.
    async fn look(&mut self, events: &mut UnboundedReceiver<Event>) -> Result<()> {
        for lane in 0..self.lanes.len() {
            // Without a leader there is nothing to be seen; the next look will tell.
            let Ok(interface) = self.admin.get_interface(self.lanes[lane].name).await else {
                continue;
            };
            // What arrived before that answer comes first.
            while let Ok(event) = events.try_recv() {
                self.take(event).await?;
            }
            let through = interface
                .destinations
                .iter()
                .map(|destination| destination.checkpoint)
                .min();
            self.skipped_before(lane, through.unwrap_or(0) + 1).await?;
        }
        Ok(())
    }

    /// Every sequence before `sequence` that was not printed has been passed over: by what right?
    async fn skipped_before(&mut self, lane: usize, sequence: u64) -> Result<()> {
        while self.lanes[lane].next < sequence {
            let passed = self.lanes[lane].next;
            let message = self.message(lane, MessageKey::Sequence(passed)).await?;
            let id = Uuid::from_slice(&message.message_id).unwrap_or_default();
            let reason = reason(&message);
            let place = self.lanes[lane].by_id.get(&id).copied();
            let watched = &mut self.lanes[lane];
            watched.next += 1;
            let status = message.status();
            let (word, tone) = match status {
                MessageStatus::Skipped | MessageStatus::Failed | MessageStatus::Filtered => {
                    self.seen.lanes[lane].skipped.push(id);
                    ("SKIPPED", Tone::Notable)
                }
                _ => {
                    let status = views::word(status.as_str_name(), "MESSAGE_STATUS_");
                    let problem = format!(
                        "{} #{passed} was passed over, and is {status}",
                        watched.name
                    );
                    self.seen.problems.push(problem);
                    ("PASSED", Tone::Bad)
                }
            };
            if let Some(place) = place {
                watched.print(
                    self.screen,
                    &watched.letters[place],
                    Some(passed),
                    word,
                    tone,
                    &reason,
                );
            }
        }
        Ok(())
    }

    async fn message(&self, lane: usize, key: MessageKey) -> Result<Message> {
        let name = self.lanes[lane].name;
        self.admin
            .get_message(name, key)
            .await
            .with_context(|| format!("asking what became of a message of {name}"))
    }
}

impl<'a> Lane<'a> {
    fn new(name: &'static str, letters: &'a [Letter]) -> Self {
        let mut by_id = HashMap::new();
        for (place, letter) in letters.iter().enumerate() {
            if let Some(id) = letter.id {
                by_id.entry(id).or_insert(place);
            }
        }
        Self {
            name,
            letters,
            by_id,
            tracks: vec![Track::default(); letters.len()],
            stages_done: HashMap::new(),
            finished: BTreeSet::new(),
            head: 1,
            next: 1,
        }
    }

    /// The sequence needs no more work; false where that was known (a stage may run twice).
    fn finish(&mut self, sequence: u64) -> bool {
        if sequence < self.head || !self.finished.insert(sequence) {
            return false;
        }
        while self.finished.remove(&self.head) {
            self.head += 1;
        }
        true
    }

    fn print(
        &self,
        screen: &Screen,
        letter: &Letter,
        sequence: Option<u64>,
        word: &str,
        tone: Tone,
        text: &str,
    ) {
        screen.message(&Line {
            interface: self.name,
            sequence,
            message_type: &letter.message_type,
            control_id: &letter.shown,
            word,
            tone,
            text,
        });
    }
}

/// Why a message was skipped, and where it is now.
fn reason(message: &Message) -> String {
    let event = message
        .events
        .iter()
        .rev()
        .find(|event| !event.reason.is_empty());
    let is_filtered = message
        .events
        .iter()
        .any(|event| event.kind() == MessageEventKind::Filtered);
    let now = if is_filtered {
        ""
    } else {
        " (now a dead letter)"
    };
    event
        .map(|event| format!("{}: {}{now}", event.place, event.reason))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_moves_over_everything_that_is_finished() {
        let mut lane = Lane::new("radiology", &[]);
        assert!(lane.finish(2) && lane.finish(3));
        assert_eq!(lane.head, 1);
        assert!(!lane.finish(3));
        assert!(lane.finish(1));
        assert_eq!(lane.head, 4);
        assert!(!lane.finish(2));
    }
}
