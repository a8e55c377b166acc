//! Requests: the bytes of every request are refused or decoded; what is decoded passes the services' own checks or is
//! refused with a short text; what passes says what the request said, survives the log, and is applied without harm.
//!
//! Input: which request, and its bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, CreateInterface, DestinationConfig,
    DestinationNumber, Entry, Epoch, Grant, Incarnation, InterfaceConfig, InterfaceId, Outcome,
    RunPosition, Sequence, StageConfig, State, UpdateInterface, WallTime, invariants,
    validate_interface_name,
};
use ordo_wire::convert::{interface_config_from_proto, interface_config_to_proto};
use ordo_wire::entry::{decode, encode};
use ordo_wire::request::{
    answer_of, ingest_of, name_of, report_of, stages_of, subscription_of, uuid_of,
};
use ordo_wire::status::Failure;
use ordo_wire::v1;
use prost::Message;
use uuid::Uuid;

/// Bytes of a refusal's text: it goes into the headers of a response, which have 16 KiB in all.
const TEXT_BYTES_MAX: usize = 4 * 1024;
const INTERFACE: InterfaceId = InterfaceId(Uuid::from_u128(1));

fuzz_target!(|data: &[u8]| {
    let [kind, bytes @ ..] = data else {
        return;
    };
    let mut node = Node::new();
    match kind % 20 {
        0..=3 => read(bytes, |request| node.ingest(request)),
        4..=7 => read(bytes, |request| node.work(request)),
        8..=11 => read(bytes, |request| node.deliver(request)),
        12 | 13 => read(bytes, |request| node.create(request)),
        14 | 15 => read(bytes, |request| node.update(request)),
        16 => read(bytes, |request: v1::GetMessageRequest| {
            let _ = checked(uuid_of("message_id", &request.message_id));
        }),
        17 => read(bytes, |_: v1::ListDeadLettersRequest| {}),
        18 => read(bytes, |_: v1::RedriveDeadLetterRequest| {}),
        _ => read(bytes, |_: v1::AddNodeRequest| {}),
    }
    node.check();
});

/// Decodes a request, twice over: what was decoded and encoded is decoded the same.
fn read<T: Message + Default + Clone + PartialEq>(bytes: &[u8], then: impl FnOnce(T)) {
    let Ok(request) = T::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = T::decode(Bytes::from(request.encode_to_vec()));
    assert!(again.is_ok_and(|again| again == request));
    then(request);
}

/// A refusal has a short text, and is the same on the client's side.
fn checked<T>(result: Result<T, impl Into<Failure>>) -> Option<T> {
    let failure = match result {
        Ok(value) => return Some(value),
        Err(failure) => failure.into(),
    };
    assert!(!failure.text.is_empty());
    assert!(
        failure.text.len() <= TEXT_BYTES_MAX,
        "{} bytes",
        failure.text.len()
    );
    let read = Failure::from_status(&failure.to_status());
    assert_eq!((read.reason, &read.text), (failure.reason, &failure.text));
    assert_eq!(read.field, failure.field);
    None
}

/// A state with one interface, and what the services of a node do with requests.
struct Node {
    state: State,
    n: u64,
    config: InterfaceConfig,
}

impl Node {
    fn new() -> Self {
        let config = InterfaceConfig {
            stages: vec![StageConfig::named("a"), StageConfig::named("b")],
            destinations: vec![DestinationConfig::named("c"), DestinationConfig::named("d")],
            payload_bytes_max: 16,
            dead_letters_max: 2,
            ..InterfaceConfig::default()
        };
        let mut node = Self {
            state: State::default(),
            n: 0,
            config: config.clone(),
        };
        node.apply(Command::CreateInterface(CreateInterface {
            interface: INTERFACE,
            name: "i".to_owned(),
            config,
        }));
        node
    }

    /// What a command becomes in the log is what is applied.
    fn apply(&mut self, command: Command) {
        self.n += 1;
        let entry = Entry {
            cluster_time: ClusterTime(self.n),
            wall_time: WallTime(self.n),
            position: RunPosition {
                term: 1,
                run: 1,
                n: self.n,
            },
            commands: vec![command],
        };
        let written = encode(&entry);
        let read = decode(written.clone()).expect("what a service accepts can be logged");
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        assert_eq!(encode(&read), written);
        let replies = self.state.apply(self.n, read, &mut Vec::new());
        assert_eq!(replies.len(), 1);
    }

    fn check(&self) {
        if let Err(violation) = invariants::check(&self.state) {
            panic!("{violation}");
        }
    }

    fn ingest(&mut self, request: v1::IngestRequest) {
        for batch in request.batches {
            for message in batch.messages {
                let given = message.clone();
                let result = ingest_of(
                    INTERFACE,
                    &self.config,
                    &batch.producer,
                    (batch.session, batch.heard_sequence),
                    message,
                );
                let Some(there) = checked(result) else {
                    continue;
                };
                let ingest = there.ingest;
                assert_eq!(ingest.message_id.0.as_bytes()[..], given.message_id);
                assert_eq!(ingest.payload, given.payload);
                let names = ingest.headers.iter().map(|h| (&h.name, &h.value));
                assert!(names.eq(given.headers.iter().map(|h| (&h.name, &h.value))));
                let numbered = (batch.producer.clone(), given.producer_sequence);
                assert_eq!(ingest.numbered.clone().unwrap_or_default(), numbered);
                let too_large = there.too_large.is_some();
                assert!(too_large || !there.impossible);
                assert!(too_large || ingest.payload.len() <= 16);
                match there.too_large {
                    Some(failure) => assert!(checked::<()>(Err(failure)).is_none()),
                    None => self.apply(Command::Ingest(ingest)),
                }
            }
        }
    }

    fn work(&mut self, request: v1::WorkRequest) {
        if let Some(hello) = request.hello {
            checked(uuid_of("hello.worker_id", &hello.worker_id));
            checked(name_of("hello.name", hello.name));
            checked(stages_of(hello.stages));
        }
        // Something to report on.
        self.ingest_one();
        for report in request.reports {
            let given = report.clone();
            let Some(report) = checked(report_of((INTERFACE, "i"), &self.config, report, || 7))
            else {
                continue;
            };
            assert_eq!(report.sequence.0, given.sequence);
            assert_eq!(report.turn.0, given.turn);
            assert_eq!(
                self.config.stages[usize::from(report.stage.0)].name,
                given.stage
            );
            if let (
                Outcome::Complete {
                    payload,
                    headers,
                    destinations,
                },
                Some(v1::work_report::Outcome::Complete(complete)),
            ) = (&report.outcome, &given.outcome)
            {
                assert_eq!(*payload, complete.payload);
                assert_eq!(headers.len(), complete.headers.len());
                let name = |n: &DestinationNumber| &self.config.destinations[usize::from(n.0)].name;
                assert!(destinations.iter().map(name).eq(&complete.destinations));
            }
            self.apply(Command::Report(report));
        }
    }

    fn ingest_one(&mut self) {
        let message = v1::IngestMessage {
            message_id: Bytes::from_static(&[7; 16]),
            ..v1::IngestMessage::default()
        };
        let request = v1::IngestRequest {
            batches: vec![v1::IngestBatch {
                messages: vec![message],
                ..v1::IngestBatch::default()
            }],
        };
        self.ingest(request);
    }

    fn deliver(&mut self, request: v1::DeliverRequest) {
        self.ingest_one();
        for subscribe in request.subscribe {
            let given = subscribe.clone();
            let Some(wanted) = checked(subscription_of(subscribe)) else {
                continue;
            };
            assert_eq!(wanted.consumer.0.as_bytes()[..], given.consumer_id);
            assert_eq!(
                (&wanted.interface, &wanted.name),
                (&given.interface, &given.name)
            );
            let position = |(_, incarnation, sequence): (InterfaceId, Incarnation, Sequence)| {
                (incarnation, sequence)
            };
            // To the interface there is, whatever it is called.
            self.apply(Command::Grant(Grant {
                interface: INTERFACE,
                destination: DestinationNumber(0),
                consumer: wanted.consumer,
                name: wanted.name,
                position: wanted.position.map(position),
            }));
        }
        for answer in request.answers {
            let Some(kind) = checked(answer_of(answer.answer)) else {
                continue;
            };
            assert!(!matches!(kind, AnswerKind::Retry { after_ms, .. } if after_ms > 86_400_000));
            self.apply(Command::Answer(Answer {
                interface: INTERFACE,
                destination: DestinationNumber(0),
                epoch: Epoch(answer.epoch),
                sequence: Sequence(answer.sequence),
                kind,
            }));
        }
    }

    fn create(&mut self, request: v1::CreateInterfaceRequest) {
        let name = checked(validate_interface_name(&request.name));
        let config = self.config_of(request.config.unwrap_or_default());
        if let (Some(()), Some(config)) = (name, config) {
            self.apply(Command::CreateInterface(CreateInterface {
                interface: InterfaceId(Uuid::from_u128(2)),
                name: request.name,
                config,
            }));
        }
    }

    fn update(&mut self, request: v1::UpdateInterfaceRequest) {
        if let Some(config) = self.config_of(request.config.unwrap_or_default()) {
            self.apply(Command::UpdateInterface(UpdateInterface {
                interface: INTERFACE,
                config_version: request.config_version,
                config,
            }));
        }
    }

    /// What is accepted is valid and complete: said again, it means the same.
    fn config_of(&self, request: v1::InterfaceConfig) -> Option<InterfaceConfig> {
        let config = checked(interface_config_from_proto(request))?;
        assert_eq!(config.validate(), Ok(()));
        let shown = interface_config_to_proto(&config);
        let again = interface_config_from_proto(shown).expect("it was accepted before");
        assert_eq!(again, config);
        Some(config)
    }
}
