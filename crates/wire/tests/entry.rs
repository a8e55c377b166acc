//! Log entries come out as they went in.

use bytes::Bytes;
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DeadLetterKey,
    DestinationConfig, DestinationNumber, Digest, DiscardDeadLetter, Entry, Epoch, ForgetFinished,
    Grant, GrantEnd, Header, Incarnation, Ingest, InterfaceConfig, InterfaceId, Loss, MessageId,
    NoteDelivery, Outcome, ProducerSession, QuarantineInterface, RedriveDeadLetter, RefuseIngest,
    RepairInterface, Report, ResumeDelivery, RunPosition, Sequence, SkipDelivery, StageConfig,
    StageNumber, Turn, UpdateInterface, WallTime,
};
use ordo_wire::entry::{DecodeError, ENTRY_VERSION, decode, encode};
use proptest::prelude::*;
use std::num::NonZeroU64;
use uuid::Uuid;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn interface() -> impl Strategy<Value = InterfaceId> {
    uuid().prop_map(InterfaceId)
}

fn sequence() -> impl Strategy<Value = Sequence> {
    any::<u64>().prop_map(Sequence)
}

fn destination() -> impl Strategy<Value = DestinationNumber> {
    (0u8..16).prop_map(DestinationNumber)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let header = (".{0,8}", ".{0,8}").prop_map(|(name, value)| Header { name, value });
    prop::collection::vec(header, 0..4)
}

fn numbered() -> impl Strategy<Value = (String, u64)> {
    (".{0,8}", 1..=u64::MAX)
}

fn key() -> impl Strategy<Value = DeadLetterKey> {
    (sequence(), prop::option::of(destination())).prop_map(|(sequence, destination)| {
        DeadLetterKey {
            sequence,
            destination,
        }
    })
}

fn config() -> impl Strategy<Value = InterfaceConfig> {
    let stage = ("[a-z]{1,8}", any::<[u32; 5]>()).prop_map(|(name, n)| StageConfig {
        name,
        max_attempts: n[0],
        max_losses: n[1],
        lease_ms: n[2],
        // 0 is allowed, and is not the default.
        backoff_ms: n[3] % 3,
        backoff_ms_max: n[4] % 3,
        work_ms_max: n[4] % 5,
    });
    let destination = ("[a-z]{1,8}", any::<(u32, u32)>()).prop_map(|(name, n)| DestinationConfig {
        name,
        max_attempts: n.0,
        max_in_flight: n.1,
    });
    let stages = prop::collection::vec(stage, 0..4);
    let destinations = prop::collection::vec(destination, 1..4);
    let numbers = any::<(u32, u64, u32, bool, u32, u32, u64)>();
    (stages, destinations, numbers).prop_map(|(stages, destinations, n)| InterfaceConfig {
        stages,
        destinations,
        window: n.0,
        backlog: n.1,
        dedup_messages: n.2,
        paused: n.3,
        payload_bytes_max: n.4,
        dead_letters_max: n.5,
        dead_letter_bytes_max: n.6,
    })
}

fn ingests() -> impl Strategy<Value = Command> {
    let body = (any::<[u8; 16]>(), payload(), headers());
    let session = (any::<NonZeroU64>(), any::<u64>())
        .prop_map(|(session, heard)| (ProducerSession(session), Sequence(heard)));
    let from = (prop::option::of(numbered()), prop::option::of(session));
    let ingest = (interface(), uuid(), body, from).prop_map(
        |(interface, id, (digest, payload, headers), (numbered, session))| {
            Command::Ingest(Ingest {
                interface,
                message_id: MessageId(id),
                digest: Digest(digest),
                payload,
                headers,
                numbered,
                session,
            })
        },
    );
    let refuse = (interface(), uuid(), numbered()).prop_map(|(interface, id, numbered)| {
        Command::RefuseIngest(RefuseIngest {
            interface,
            message_id: MessageId(id),
            numbered,
        })
    });
    prop_oneof![ingest, refuse]
}

fn reports() -> impl Strategy<Value = Command> {
    let destinations = prop::collection::vec(destination(), 0..4);
    let outcome = prop_oneof![
        (prop::option::of(payload()), headers(), destinations).prop_map(
            |(payload, headers, destinations)| Outcome::Complete {
                payload,
                headers,
                destinations,
            }
        ),
        (".{0,8}", any::<u16>()).prop_map(|(reason, jitter)| Outcome::Retry { reason, jitter }),
        ".{0,8}".prop_map(|reason| Outcome::Reject { reason }),
        ".{0,8}".prop_map(|reason| Outcome::Filter { reason }),
    ];
    let place = || (interface(), sequence(), any::<u8>(), any::<u32>());
    let report = (place(), outcome).prop_map(|(place, outcome)| {
        Command::Report(Report {
            interface: place.0,
            sequence: place.1,
            stage: StageNumber(place.2),
            turn: Turn(place.3),
            outcome,
        })
    });
    let loss = (place(), ".{0,8}").prop_map(|(place, reason)| {
        Command::Loss(Loss {
            interface: place.0,
            sequence: place.1,
            stage: StageNumber(place.2),
            turn: Turn(place.3),
            reason,
        })
    });
    prop_oneof![report, loss]
}

fn deliveries() -> impl Strategy<Value = Command> {
    let position = prop::option::of((any::<u32>().prop_map(Incarnation), sequence()));
    let grant = (interface(), destination(), uuid(), ".{0,8}", position).prop_map(
        |(interface, destination, consumer, name, position)| {
            Command::Grant(Grant {
                interface,
                destination,
                consumer: ConsumerId(consumer),
                name,
                position,
            })
        },
    );
    let end = (interface(), destination(), any::<u64>()).prop_map(|(i, d, epoch)| {
        Command::GrantEnd(GrantEnd {
            interface: i,
            destination: d,
            epoch: Epoch(epoch),
        })
    });
    let kind = prop_oneof![
        Just(AnswerKind::Ack),
        (any::<u64>(), ".{0,8}")
            .prop_map(|(after_ms, reason)| AnswerKind::Retry { after_ms, reason }),
        ".{0,8}".prop_map(|reason| AnswerKind::Reject { reason }),
        (any::<u64>(), any::<bool>(), ".{0,8}").prop_map(|(after_ms, sent, reason)| {
            AnswerKind::Unavailable {
                after_ms,
                sent,
                reason,
            }
        }),
    ];
    let answer = (interface(), destination(), any::<u64>(), sequence(), kind).prop_map(
        |(interface, destination, epoch, sequence, kind)| {
            Command::Answer(Answer {
                interface,
                destination,
                epoch: Epoch(epoch),
                sequence,
                kind,
            })
        },
    );
    prop_oneof![grant, end, answer]
}

fn changes() -> impl Strategy<Value = Command> {
    prop_oneof![
        (interface(), ".{0,8}", config()).prop_map(|(interface, name, config)| {
            Command::CreateInterface(CreateInterface {
                interface,
                name,
                config,
            })
        }),
        (interface(), any::<u64>(), config()).prop_map(|(interface, config_version, config)| {
            Command::UpdateInterface(UpdateInterface {
                interface,
                config_version,
                config,
            })
        }),
        (interface(), key()).prop_map(|(interface, key)| {
            Command::DiscardDeadLetter(DiscardDeadLetter { interface, key })
        }),
        (interface(), key(), any::<bool>()).prop_map(|(interface, key, in_place_only)| {
            Command::RedriveDeadLetter(RedriveDeadLetter {
                interface,
                key,
                in_place_only,
            })
        }),
        (interface(), sequence()).prop_map(|(interface, through)| {
            Command::ForgetFinished(ForgetFinished { interface, through })
        }),
        (interface(), "[a-z_]{0,20}").prop_map(|(interface, invariant)| {
            Command::QuarantineInterface(QuarantineInterface {
                interface,
                invariant,
            })
        }),
        interface().prop_map(|interface| Command::RepairInterface(RepairInterface { interface })),
        delivery_command(),
    ]
}

fn delivery_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (interface(), destination(), sequence(), any::<u32>()).prop_map(
            |(interface, destination, sequence, turn)| {
                Command::SkipDelivery(SkipDelivery {
                    interface,
                    destination,
                    sequence,
                    turn: Turn(turn),
                })
            }
        ),
        (interface(), destination(), prop::option::of(1..u32::MAX)).prop_map(
            |(interface, destination, turn)| {
                Command::ResumeDelivery(ResumeDelivery {
                    interface,
                    destination,
                    turn: turn.map(Turn),
                })
            }
        ),
        (
            interface(),
            destination(),
            sequence(),
            any::<u64>(),
            ".{0,8}"
        )
            .prop_map(|(interface, destination, sequence, epoch, text)| {
                Command::NoteDelivery(NoteDelivery {
                    interface,
                    destination,
                    sequence,
                    epoch: Epoch(epoch),
                    code: "AE".into(),
                    text,
                })
            }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let command = prop_oneof![ingests(), reports(), deliveries(), changes()];
    let commands = prop::collection::vec(command, 0..6);
    (any::<[u64; 5]>(), commands).prop_map(|(n, commands)| Entry {
        cluster_time: ClusterTime(n[0]),
        wall_time: WallTime(n[1]),
        position: RunPosition {
            term: n[2],
            run: n[3],
            n: n[4],
        },
        commands,
    })
}

/// All of a command: `Debug` leaves out payloads and values.
fn text(command: &Command) -> String {
    let pairs = |headers: &[Header]| {
        let pairs = headers.iter().map(|h| (h.name.clone(), h.value.clone()));
        pairs.collect::<Vec<_>>()
    };
    match command {
        Command::Ingest(c) => format!(
            "{c:?} {:?} {:?} {:?} {:?} {:?}",
            c.digest,
            c.payload,
            pairs(&c.headers),
            c.numbered,
            c.session
        ),
        Command::Report(c) => {
            let outcome = match &c.outcome {
                Outcome::Complete {
                    payload,
                    headers,
                    destinations,
                } => format!("{payload:?} {:?} {destinations:?}", pairs(headers)),
                Outcome::Retry { reason, jitter } => format!("{reason:?} {jitter}"),
                Outcome::Reject { reason } | Outcome::Filter { reason } => format!("{reason:?}"),
            };
            format!("{c:?} {outcome}")
        }
        others => format!("{others:?}"),
    }
}

proptest! {
    #[test]
    fn an_entry_comes_out_as_it_went_in(entry in entry()) {
        let bytes = encode(&entry);
        prop_assert_eq!(bytes[0], ENTRY_VERSION);
        let again = decode(bytes).expect("it was just encoded");
        prop_assert_eq!(again.cluster_time, entry.cluster_time);
        prop_assert_eq!(again.wall_time, entry.wall_time);
        prop_assert_eq!(again.position, entry.position);
        let all = |entry: &Entry| entry.commands.iter().map(text).collect::<Vec<_>>();
        prop_assert_eq!(all(&again), all(&entry));
    }

    /// A torn or foreign entry is an error, or another entry, but never a panic.
    #[test]
    fn any_bytes_decode_or_are_refused(
        entry in entry(),
        cut in any::<prop::sample::Index>(),
        flipped in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let whole = encode(&entry);
        let mut bytes = whole.to_vec();
        let at = flipped.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _: Result<Entry, DecodeError> = decode(Bytes::from(bytes));
        let _: Result<Entry, DecodeError> = decode(whole.slice(..cut.index(whole.len())));
    }
}

#[test]
fn another_version_is_named_and_nothing_is_refused() {
    assert!(matches!(
        decode(Bytes::new()),
        Err(DecodeError::Field("version"))
    ));
    let other = Bytes::from_static(&[ENTRY_VERSION + 1, 0]);
    assert!(matches!(decode(other), Err(DecodeError::Version(v)) if v == ENTRY_VERSION + 1));
}
