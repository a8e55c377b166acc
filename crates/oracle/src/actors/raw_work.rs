//! Work on the bare protocol: what workers have in common that do not use the client library.

use bytes::Bytes;
use ordo_client::proto::work_service_client::WorkServiceClient;
use ordo_client::proto::{WorkAssignment, WorkHello, WorkRequest, WorkResponse};
use rand::Rng;
use rand::rngs::StdRng;

use super::finish::uuid_of;
use super::raw::{Frames, Raw};
use crate::history::What;
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// The first frame of a worker that nobody has seen before.
pub(super) fn hello(
    random: &mut StdRng,
    scribe: &Scribe,
    stages: &[Name],
    interface_prefix: &str,
    credits: u32,
) -> WorkRequest {
    let worker_id: [u8; 16] = random.random();
    let hello = WorkHello {
        worker_id: Bytes::copy_from_slice(&worker_id),
        name: scribe.actor().to_string(),
        stages: stages.iter().map(ToString::to_string).collect(),
        interface_prefix: interface_prefix.to_owned(),
        holds: Vec::new(),
        credits,
    };
    WorkRequest {
        hello: Some(hello),
        ..WorkRequest::default()
    }
}

/// A stream at the leader, with its first frame.
pub(super) async fn open(raw: &Raw, hello: WorkRequest) -> Frames<WorkRequest, WorkResponse> {
    let opened = raw.open(Some(hello), |channel, frames| async move {
        WorkServiceClient::new(channel).work(frames).await
    });
    opened.await
}

/// Notes what a worker was given.
pub(super) fn note(scribe: &Scribe, assignment: &WorkAssignment) {
    scribe.record(What::Assigned {
        interface: Name::from(assignment.interface.as_str()),
        sequence: assignment.sequence,
        message_id: uuid_of(&assignment.message_id),
        stage: Name::from(assignment.stage.as_str()),
        turn: assignment.turn,
        attempts: assignment.attempts,
        digest: Digest::of(&assignment.payload),
    });
}
