//! Who keeps the server waiting: with every slot taken, the connection that has done so for longest is closed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A server's connections.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    /// Grows with every wait that begins, so that the first entry is the oldest.
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One connection's place. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    connections: Arc<Connections>,
    closing: CancellationToken,
    evicted: CancellationToken,
    had_request: AtomicBool,
    /// A request was answered before its body had arrived: the client may still be sending.
    unread_body: AtomicBool,
    /// The entry among those that wait for their client; `None` while a request is worked on.
    entry: Mutex<Option<u64>>,
    phase: Mutex<Phase>,
}

/// Whose turn it is on a connection.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The client's: it sends a request's head, or could since the connection was made.
    Head(Instant),
    /// The client's: nothing has come since the last bytes of an answer were sent.
    Idle(Instant),
    /// Ours, or the client sends a body, which has a limit of its own.
    Request,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), table: Mutex::default() }
    }

    /// Takes a slot, someone else's if need be. `None` when every one is at work.
    pub(super) fn admit(this: &Arc<Self>, closing: &CancellationToken) -> Option<ConnectionSlot> {
        let evicted = CancellationToken::new();
        let mut table = this.table.lock();
        if table.taken >= this.limit {
            let (_, oldest) = table.waiting.pop_first()?;
            oldest.cancel();
        } else {
            table.taken += 1;
        }
        let entry = Some(table.wait(evicted.clone()));
        drop(table);
        let connections = Arc::clone(this);
        Some(ConnectionSlot {
            connections,
            closing: closing.clone(),
            evicted,
            had_request: AtomicBool::new(false),
            unread_body: AtomicBool::new(false),
            entry: Mutex::new(entry),
            phase: Mutex::new(Phase::Head(Instant::now())),
        })
    }
}

impl Table {
    fn wait(&mut self, evicted: CancellationToken) -> u64 {
        let entry = self.next;
        self.next += 1;
        self.waiting.insert(entry, evicted);
        entry
    }
}

impl ConnectionSlot {
    /// Notes that a request has come over this connection.
    pub(super) fn note_request(&self) {
        self.had_request.store(true, Ordering::Relaxed);
        *self.phase.lock() = Phase::Request;
    }

    /// Notes that bytes have come.
    pub(super) fn note_read(&self) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Notes that bytes have gone.
    pub(super) fn note_written(&self) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Idle(Instant::now());
        }
    }

    /// Whether a request was answered before its body had arrived.
    pub(super) fn has_unread_body(&self) -> bool {
        self.unread_body.load(Ordering::Relaxed)
    }

    /// Resolves once the client has taken longer than `head` for a request's head, or been idle for `idle`; up to a
    /// quarter of `head` late, so that a request costs no timer.
    pub(super) async fn overdue(&self, head: Duration, idle: Duration) {
        let step = head / 4;
        loop {
            let now = Instant::now();
            let left = match *self.phase.lock() {
                Phase::Head(since) => (since + head).saturating_duration_since(now),
                Phase::Idle(since) => (since + idle).saturating_duration_since(now),
                Phase::Request => step,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(step)).await;
        }
    }

    /// Whether a request has come over this connection.
    pub(super) fn had_request(&self) -> bool {
        self.had_request.load(Ordering::Relaxed)
    }

    /// Resolves when the server stops.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Resolves when the slot was given to another connection.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// The whole request has arrived: it is our turn.
    fn work(&self) {
        if let Some(entry) = self.entry.lock().take() {
            self.connections.table.lock().waiting.remove(&entry);
        }
    }

    /// It is the client's turn to send the next request. `false` when this one has not arrived as a whole.
    pub(super) fn wait_for_client(&self) -> bool {
        let mut entry = self.entry.lock();
        let has_arrived = entry.is_none();
        self.unread_body.store(!has_arrived, Ordering::Relaxed);
        *self.phase.lock() = Phase::Idle(Instant::now());
        if has_arrived {
            *entry = Some(self.connections.table.lock().wait(self.evicted.clone()));
        }
        has_arrived
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.work();
        // Otherwise its successor has it already.
        if !self.evicted.is_cancelled() {
            self.connections.table.lock().taken -= 1;
        }
    }
}

/// A request's body that reports to its connection when it has arrived.
pub(super) struct ReceivedBody {
    body: Incoming,
    slot: Arc<ConnectionSlot>,
}

impl ReceivedBody {
    pub(super) fn new(body: Incoming, slot: Arc<ConnectionSlot>) -> Self {
        if body.is_end_stream() {
            slot.work();
        }
        Self { body, slot }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.slot.work();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(connections: &Arc<Connections>) -> Option<ConnectionSlot> {
        Connections::admit(connections, &CancellationToken::new())
    }

    #[test]
    fn who_waits_for_longest_makes_room_and_who_works_does_not() {
        let connections = Arc::new(Connections::new(3));
        let slots: Vec<ConnectionSlot> = (0..3).map(|_| admit(&connections).unwrap()).collect();
        slots[0].work();
        slots[1].work();
        assert!(slots[1].wait_for_client());
        assert!(!slots[1].wait_for_client(), "no further request has arrived");
        // The second was at work meanwhile: the third waits for longest.
        let fourth = admit(&connections).unwrap();
        let evicted = |slot: &ConnectionSlot| slot.evicted.is_cancelled();
        assert_eq!(slots.iter().map(evicted).collect::<Vec<_>>(), [false, false, true]);
        fourth.work();
        let fifth = admit(&connections).unwrap();
        assert_eq!(slots.iter().map(evicted).collect::<Vec<_>>(), [false, true, true]);
        fifth.work();
        assert!(admit(&connections).is_none(), "every connection is busy");
        drop(slots);
        drop(admit(&connections).unwrap());
        drop((fourth, fifth));
        let table = connections.table.lock();
        assert_eq!((table.taken, table.waiting.len()), (0, 0));
    }
}
