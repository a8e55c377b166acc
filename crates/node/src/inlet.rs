//! What comes in over gRPC, bounded before anybody looks at it.
//!
//! tonic bounds the length of one message and nothing else, and that is not enough: every stream may hold the
//! beginning of a message of that length, a few bytes of protobuf may decode to a hundred times as many, and streams
//! cost memory though nothing is sent on them. So this layer counts calls, keeps the beginnings of messages itself
//! (their bytes count against one budget of the node) and weighs a message before it goes on to be decoded.

mod weight;

use crate::net::{Activity, Remote};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use weight::Shape;

/// Length and compression flag before every gRPC message, in bytes.
const PREFIX_BYTES: usize = 5;
/// A message that has begun must end, or grow by [`PROGRESS_BYTES`], in this time, or its stream ends: about 280 kbit/s.
/// Otherwise a client could hold its part of the budget for ever.
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);
/// As many as a stream's window, which may be full of what we have not read ourselves.
pub(crate) const PROGRESS_BYTES: usize = 1024 * 1024;
/// When a client that was refused for want of room may try again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What one server takes from all its clients together. A layer of its services.
#[derive(Clone)]
pub(crate) struct Inlet(Arc<Shared>);

struct Shared {
    calls: AtomicUsize,
    calls_max: usize,
    bytes: AtomicUsize,
    bytes_max: usize,
    rule_of: fn(&str) -> Rule,
}

/// What a method's messages may be.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// Bytes of one message.
    pub(crate) bytes_max: usize,
    /// What of it repeats.
    pub(crate) shape: &'static Shape,
}

/// The rules of the public services.
pub(crate) fn public(path: &str) -> Rule {
    use crate::services::{ANSWERS_BYTES_MAX, CALL_BYTES_MAX, FRAME_BYTES_MAX};
    let (bytes_max, shape) = match path {
        "/ordo.v1.IngestService/Ingest" => (FRAME_BYTES_MAX, &weight::INGEST),
        "/ordo.v1.WorkService/Work" => (FRAME_BYTES_MAX, &weight::WORK),
        "/ordo.v1.DeliveryService/Deliver" => (ANSWERS_BYTES_MAX, &weight::DELIVER),
        _ => (CALL_BYTES_MAX, &weight::FLAT),
    };
    Rule { bytes_max, shape }
}

/// The rules of the other nodes' service. Only a leader that has named cluster and node is read at length.
pub(crate) fn peer(path: &str) -> Rule {
    let long = path.ends_with("/Append") || path.ends_with("/InstallSnapshot");
    let bytes_max = match long {
        true => crate::raft::MESSAGE_BYTES_MAX,
        false => crate::services::CALL_BYTES_MAX,
    };
    Rule {
        bytes_max,
        shape: &weight::FLAT,
    }
}

impl Inlet {
    /// At most `calls_max` calls and streams at once; at most `bytes_max` bytes of messages whose end has not come.
    pub(crate) fn new(calls_max: usize, bytes_max: usize, rule_of: fn(&str) -> Rule) -> Self {
        Self(Arc::new(Shared {
            calls: AtomicUsize::new(0),
            calls_max,
            bytes: AtomicUsize::new(0),
            bytes_max,
            rule_of,
        }))
    }

    fn begin(&self, remote: Option<&Remote>) -> Option<Call> {
        let before = self.0.calls.fetch_add(1, Ordering::Relaxed);
        if before >= self.0.calls_max {
            self.0.calls.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let activity = remote.map(|remote| Arc::clone(&remote.activity));
        if let Some(activity) = &activity {
            activity.begin();
        }
        Some(Call {
            inlet: self.clone(),
            activity,
        })
    }
}

/// A call that counts until it is dropped.
struct Call {
    inlet: Inlet,
    activity: Option<Arc<Activity>>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.inlet.0.calls.fetch_sub(1, Ordering::Relaxed);
        if let Some(activity) = &self.activity {
            activity.end();
        }
    }
}

impl<S> Layer<S> for Inlet {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded {
            inner,
            inlet: self.clone(),
        }
    }
}

/// A service behind an [`Inlet`].
#[derive(Clone)]
pub(crate) struct Bounded<S> {
    inner: S,
    inlet: Inlet,
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(call) = self.inlet.begin(request.extensions().get()) else {
            let calls = self.inlet.0.calls_max;
            let text = format!("the node serves {calls} calls and streams already");
            let failure = Failure::new(Reason::NodeFull, text).retry_after(RETRY_AFTER);
            let refused = failure.to_status().into_http();
            return Box::pin(async move { Ok(refused) });
        };
        let rule = (self.inlet.0.rule_of)(request.uri().path());
        let inlet = self.inlet.clone();
        let request = request.map(|body| Body::new(Incoming::new(body, inlet, rule)));
        let served = self.inner.call(request);
        Box::pin(async move {
            let response = served.await?;
            Ok(response.map(|body| Body::new(Outgoing { body, _call: call })))
        })
    }
}

/// A response, which ends its call.
struct Outgoing {
    body: Body,
    _call: Call,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// An answer without a body must be seen to be one: then its status goes out in its headers, which end the stream.
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Whole messages, without what is not to be decoded of them.
fn without_excess(messages: Bytes) -> Bytes {
    let mut messages = BytesMut::from(messages);
    let mut at = 0;
    while let Some((prefix, rest)) = messages[at..].split_first_chunk_mut::<PREFIX_BYTES>() {
        let [_, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        // They are whole.
        let Some(message) = rest.get_mut(..length) else {
            break;
        };
        if prefix[0] == 0 {
            weight::void_excess(message);
        }
        at += PREFIX_BYTES + length;
    }
    messages.freeze()
}

/// A request's body that goes on in whole messages.
struct Incoming {
    body: Body,
    inlet: Inlet,
    rule: Rule,
    /// The beginning of a message; its bytes are counted in the inlet.
    partial: BytesMut,
    /// Until when it has to grow, and by how many bytes.
    grows: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Incoming {
    fn new(body: Body, inlet: Inlet, rule: Rule) -> Self {
        Self {
            body,
            inlet,
            rule,
            partial: BytesMut::new(),
            grows: None,
        }
    }

    /// Takes what came; gives the whole messages that are there now.
    fn take(&mut self, mut data: Bytes) -> Result<Bytes, Failure> {
        if self.partial.is_empty() {
            // Nearly always whole messages come, and are not copied.
            let (whole, excess) = self.whole(&data)?;
            let rest = data.split_off(whole);
            self.keep(&rest)?;
            return Ok(if excess { without_excess(data) } else { data });
        }
        self.keep(&data)?;
        let (whole, excess) = self.whole(&self.partial)?;
        if whole == 0 {
            return Ok(Bytes::new());
        }
        self.grows = None;
        let messages = self.partial.split_to(whole).freeze();
        self.inlet.0.bytes.fetch_sub(whole, Ordering::Relaxed);
        // Not a view of the whole buffer, which would be kept for a few bytes.
        self.partial = BytesMut::from(&self.partial[..]);
        self.watch(0);
        Ok(if excess {
            without_excess(messages)
        } else {
            messages
        })
    }

    /// Bytes of the whole messages that `data` begins with, and whether one holds something that is not to be decoded.
    fn whole(&self, data: &[u8]) -> Result<(usize, bool), Failure> {
        let (mut whole, mut excess) = (0, false);
        while let Some((prefix, rest)) = data[whole..].split_first_chunk::<PREFIX_BYTES>() {
            let [compressed, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length) as usize;
            let limit = self.rule.bytes_max;
            if length > limit {
                let text = format!("a frame has {length} bytes; at most {limit} are allowed");
                return Err(Failure::new(Reason::TooLarge, text));
            }
            let Some(message) = rest.get(..length) else {
                break;
            };
            // What says that it is compressed is refused behind us: nobody here decompresses.
            if compressed == 0 {
                excess |= weight::check(message, self.rule.shape)?;
            }
            whole += PREFIX_BYTES + length;
        }
        Ok((whole, excess))
    }

    /// Keeps the next bytes of a message. A stream may hold as much as is still free, so that near the limit those
    /// that hold most are refused first.
    fn keep(&mut self, data: &[u8]) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        let Shared {
            bytes, bytes_max, ..
        } = &*self.inlet.0;
        let used = bytes.fetch_add(data.len(), Ordering::Relaxed);
        if self.partial.len() + data.len() > bytes_max.saturating_sub(used) {
            bytes.fetch_sub(data.len(), Ordering::Relaxed);
            let text =
                format!("{used} of {bytes_max} bytes are taken by frames that have not ended");
            return Err(Failure::new(Reason::NodeFull, text).retry_after(RETRY_AFTER));
        }
        self.partial.extend_from_slice(data);
        self.watch(data.len());
        Ok(())
    }

    /// The message grew by `bytes`.
    fn watch(&mut self, bytes: usize) {
        if self.partial.is_empty() {
            self.grows = None;
            return;
        }
        let (deadline, missing) = self
            .grows
            .get_or_insert_with(|| (Box::pin(sleep(PROGRESS_WITHIN)), PROGRESS_BYTES));
        *missing = missing.saturating_sub(bytes);
        if *missing == 0 {
            *missing = PROGRESS_BYTES;
            deadline.as_mut().reset(Instant::now() + PROGRESS_WITHIN);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let held = self.partial.len();
        self.inlet.0.bytes.fetch_sub(held, Ordering::Relaxed);
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                let Some((deadline, _)) = &mut this.grows else {
                    return Poll::Pending;
                };
                ready!(deadline.as_mut().poll(cx));
                let text = format!(
                    "a frame did not end, nor grow by {PROGRESS_BYTES} bytes, within {} s",
                    PROGRESS_WITHIN.as_secs()
                );
                return Poll::Ready(Some(Err(malformed(text).to_status())));
            };
            let data = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None if this.partial.is_empty() => return Poll::Ready(None),
                None => {
                    let text = "the stream ended in the midst of a frame";
                    return Poll::Ready(Some(Err(malformed(text).to_status())));
                }
            };
            let whole = this.take(data).map_err(|failure| failure.to_status())?;
            if !whole.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(whole))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.partial.is_empty() && self.body.is_end_stream()
    }
}

fn malformed(text: impl Into<String>) -> Failure {
    Failure::new(Reason::InvalidField, text)
}

#[cfg(test)]
mod tests;
