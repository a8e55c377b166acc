//! The connections of one listening address, and which of them makes room for another.
//!
//! A site has more senders than a gateway has places, and many of them say nothing for hours. So when every place is taken
//! and one more sender comes, the connection that has been idle for longest is closed in its favour: one on which no frame
//! has begun and no reply is awaited, so that nothing is cut off. Its sender connects again when it has something to say.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a connection must have been idle before another may take its place: time enough for whoever has just
/// connected to begin.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// The connections of one listening address.
pub(crate) struct Crowd {
    /// How many there may be.
    max: usize,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    members: HashMap<u64, Member>,
}

struct Member {
    /// Since when it has been idle; none while a frame has begun or is being answered.
    idle_since: Option<Instant>,
    /// It is to make room.
    leave: CancellationToken,
}

impl Crowd {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let inside = Mutex::default();
        Arc::new(Self { max, inside })
    }

    /// A place for one more connection. Where all are taken, that of the connection that has been idle for longest; none
    /// where all are at work, or have been idle for less than a second.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut inside = self.inside();
        if inside.members.len() >= self.max {
            let idlest = inside.idlest()?;
            if let Some(member) = inside.members.remove(&idlest) {
                member.leave.cancel();
            }
        }
        let number = inside.next;
        inside.next += 1;
        let leave = CancellationToken::new();
        let member = Member {
            idle_since: None,
            leave: leave.clone(),
        };
        inside.members.insert(number, member);
        drop(inside);
        let crowd = Arc::clone(self);
        let seat = Seat {
            crowd,
            number,
            leave,
        };
        Some(Place(Arc::new(seat)))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing in there can be left half changed by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// The one that has been idle for longest, and for long enough. There are at most some thousands to look at.
    fn idlest(&self) -> Option<u64> {
        let idle = |(number, member): (&u64, &Member)| Some((member.idle_since?, *number));
        let (since, number) = self.members.iter().filter_map(idle).min()?;
        (since.elapsed() >= IDLE_MIN).then_some(number)
    }
}

/// One connection's place, free again once the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Place(Arc<Seat>);

struct Seat {
    crowd: Arc<Crowd>,
    number: u64,
    leave: CancellationToken,
}

impl Place {
    /// Waits until the connection has been idle for too long: for `max`, or when another needs its place.
    ///
    /// It counts as idle from when this is polled first, or first after something was read. A frame that begins at the very
    /// moment at which the place is given away is still read and answered: for so long there is one connection more.
    pub(super) async fn idle(&self, max: Duration) {
        let over = async {
            tokio::select! {
                () = sleep(max) => {}
                () = self.0.leave.cancelled() => {}
            }
        };
        let mut over = pin!(over);
        poll_fn(|context| {
            self.change(|member| {
                member.idle_since.get_or_insert_with(Instant::now);
            });
            over.as_mut().poll(context)
        })
        .await;
    }

    /// It is not idle: a frame has begun.
    pub(super) fn busy(&self) {
        self.change(|member| member.idle_since = None);
    }

    fn change(&self, change: impl FnOnce(&mut Member)) {
        // None where its place is another's already.
        if let Some(member) = self.0.crowd.inside().members.get_mut(&self.0.number) {
            change(member);
        }
    }

    /// The same stream; what is read from it ends its idleness.
    pub(super) fn watch<S>(&self, stream: S) -> Watched<S> {
        let place = self.clone();
        Watched { stream, place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.inside().members.remove(&self.number);
    }
}

/// A connection's stream.
pub(super) struct Watched<S> {
    stream: S,
    place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.place.busy();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
