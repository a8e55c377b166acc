//! A node whose streams are played by the test itself.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ordo_client::Cluster;
use ordo_wire::status::Failure;
use ordo_wire::v1::admin_service_server::{AdminService, AdminServiceServer};
use ordo_wire::v1::delivery_service_server::{DeliveryService, DeliveryServiceServer};
use ordo_wire::v1::ingest_service_server::{IngestService, IngestServiceServer};
use ordo_wire::v1::work_service_server::{WorkService, WorkServiceServer};
use ordo_wire::v1::*;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Waits for what must come, but not for ever.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it comes in time")
}

/// Waits until `condition` holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// One stream, in the test's hands.
pub struct Session<Q, R> {
    requests: Streaming<Q>,
    responses: mpsc::UnboundedSender<Result<R, Status>>,
}

impl<Q, R> Session<Q, R> {
    /// The client's next frame.
    pub async fn next(&mut self) -> Q {
        within(self.requests.message())
            .await
            .unwrap()
            .expect("the client goes on")
    }

    /// The client's next frame; None when it has ended its side.
    pub async fn next_or_end(&mut self) -> Option<Q> {
        within(self.requests.message()).await.unwrap_or(None)
    }

    pub fn send(&self, response: R) {
        // A client that has left does not hear it.
        let _ = self.responses.send(Ok(response));
    }

    /// Ends the stream as a leader does that can't go on.
    pub fn fail(self, failure: Failure) {
        self.responses.send(Err(failure.to_status())).unwrap();
    }
}

pub type Ingest = Session<IngestRequest, IngestResponse>;
pub type Work = Session<WorkRequest, WorkResponse>;
pub type Deliver = Session<DeliverRequest, DeliverResponse>;

/// How a node answers calls and new streams.
pub struct Script {
    /// Every call and every new stream fails so.
    pub refuses: Option<Failure>,
    /// The next calls of the administrative service fail so, each once.
    pub fails_once: Vec<Failure>,
    pub dedup_messages: u32,
    /// Calls and streams so far.
    pub calls: usize,
}

#[derive(Clone)]
struct Services {
    script: Arc<Mutex<Script>>,
    ingest: mpsc::UnboundedSender<Ingest>,
    work: mpsc::UnboundedSender<Work>,
    deliver: mpsc::UnboundedSender<Deliver>,
}

/// A node on loopback. Dropping it ends it, connections included.
pub struct Node {
    pub address: String,
    script: Arc<Mutex<Script>>,
    ingest: mpsc::UnboundedReceiver<Ingest>,
    work: mpsc::UnboundedReceiver<Work>,
    deliver: mpsc::UnboundedReceiver<Deliver>,
    stop: Arc<Notify>,
}

impl Node {
    pub async fn start() -> Self {
        let script = Script {
            refuses: None,
            fails_once: Vec::new(),
            dedup_messages: 1000,
            calls: 0,
        };
        let script = Arc::new(Mutex::new(script));
        let (ingest_in, ingest) = mpsc::unbounded_channel();
        let (work_in, work) = mpsc::unbounded_channel();
        let (deliver_in, deliver) = mpsc::unbounded_channel();
        let services = Services {
            script: Arc::clone(&script),
            ingest: ingest_in,
            work: work_in,
            deliver: deliver_in,
        };
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let stop = Arc::new(Notify::new());
        let stopping = Arc::clone(&stop);
        tokio::spawn(async move {
            let serving = tonic::transport::Server::builder()
                .add_service(IngestServiceServer::new(services.clone()))
                .add_service(WorkServiceServer::new(services.clone()))
                .add_service(DeliveryServiceServer::new(services.clone()))
                .add_service(AdminServiceServer::new(services))
                .serve_with_incoming(incoming);
            tokio::select! {
                result = serving => result.unwrap(),
                () = stopping.notified() => {}
            }
        });
        Self {
            address,
            script,
            ingest,
            work,
            deliver,
            stop,
        }
    }

    /// A client that knows this node.
    pub fn cluster(&self) -> Cluster {
        Cluster::connect([self.address.clone()]).unwrap()
    }

    pub fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap())
    }

    pub async fn ingest(&mut self) -> Ingest {
        within(self.ingest.recv()).await.unwrap()
    }

    pub async fn work(&mut self) -> Work {
        within(self.work.recv()).await.unwrap()
    }

    pub async fn deliver(&mut self) -> Deliver {
        within(self.deliver.recv()).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

impl Services {
    fn admit(&self) -> Result<(), Status> {
        let mut script = self.script.lock().unwrap();
        script.calls += 1;
        match &script.refuses {
            Some(failure) => Err(failure.to_status()),
            None => Ok(()),
        }
    }

    fn admit_call(&self) -> Result<u32, Status> {
        self.admit()?;
        let mut script = self.script.lock().unwrap();
        match script.fails_once.pop() {
            Some(failure) => Err(failure.to_status()),
            None => Ok(script.dedup_messages),
        }
    }

    fn open<Q, R>(
        &self,
        to: &mpsc::UnboundedSender<Session<Q, R>>,
        request: Request<Streaming<Q>>,
    ) -> Result<Response<UnboundedReceiverStream<Result<R, Status>>>, Status> {
        self.admit()?;
        let (responses, stream) = mpsc::unbounded_channel();
        let _ = to.send(Session {
            requests: request.into_inner(),
            responses,
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    fn interface(&self, name: &str) -> Result<Interface, Status> {
        let dedup_messages = self.admit_call()?;
        let config = InterfaceConfig {
            dedup_messages,
            ..InterfaceConfig::default()
        };
        Ok(Interface {
            name: name.to_owned(),
            config: Some(config),
            ..Interface::default()
        })
    }
}

#[tonic::async_trait]
impl IngestService for Services {
    type IngestStream = UnboundedReceiverStream<Result<IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        self.open(&self.ingest, request)
    }
}

#[tonic::async_trait]
impl WorkService for Services {
    type WorkStream = UnboundedReceiverStream<Result<WorkResponse, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        self.open(&self.work, request)
    }
}

#[tonic::async_trait]
impl DeliveryService for Services {
    type DeliverStream = UnboundedReceiverStream<Result<DeliverResponse, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        self.open(&self.deliver, request)
    }
}

/// The calls that these tests do not make.
macro_rules! unused {
    ($($name:ident $request:ty => $response:ty;)*) => {
        #[tonic::async_trait]
        impl AdminService for Services {
            async fn create_interface(
                &self,
                request: Request<CreateInterfaceRequest>,
            ) -> Result<Response<CreateInterfaceResponse>, Status> {
                let interface = Some(self.interface(&request.into_inner().name)?);
                Ok(Response::new(CreateInterfaceResponse { interface }))
            }

            async fn get_interface(
                &self,
                request: Request<GetInterfaceRequest>,
            ) -> Result<Response<GetInterfaceResponse>, Status> {
                let interface = Some(self.interface(&request.into_inner().name)?);
                Ok(Response::new(GetInterfaceResponse { interface }))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not played"))
            })*
        }
    };
}

unused! {
    update_interface UpdateInterfaceRequest => UpdateInterfaceResponse;
    list_interfaces ListInterfacesRequest => ListInterfacesResponse;
    get_message GetMessageRequest => GetMessageResponse;
    explain_interface ExplainInterfaceRequest => ExplainInterfaceResponse;
    list_dead_letters ListDeadLettersRequest => ListDeadLettersResponse;
    get_dead_letter GetDeadLetterRequest => GetDeadLetterResponse;
    discard_dead_letter DiscardDeadLetterRequest => DiscardDeadLetterResponse;
    redrive_dead_letter RedriveDeadLetterRequest => RedriveDeadLetterResponse;
    init_cluster InitClusterRequest => InitClusterResponse;
    get_cluster_status GetClusterStatusRequest => GetClusterStatusResponse;
    add_node AddNodeRequest => AddNodeResponse;
    promote_node PromoteNodeRequest => PromoteNodeResponse;
    repair_interface RepairInterfaceRequest => RepairInterfaceResponse;
    move_node MoveNodeRequest => MoveNodeResponse;
    remove_node RemoveNodeRequest => RemoveNodeResponse;
    transfer_leadership TransferLeadershipRequest => TransferLeadershipResponse;
    skip_delivery SkipDeliveryRequest => SkipDeliveryResponse;
    resume_delivery ResumeDeliveryRequest => ResumeDeliveryResponse;
    note_delivery NoteDeliveryRequest => NoteDeliveryResponse;
}
