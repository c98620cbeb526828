//! Replies: one inbox subscription for every request of a process.
//!
//! Replaces `async_nats::Client::request`, which leaks a slot per unanswered request and leaves
//! requests waiting after the connection broke (`docs/adr/0003-own-reply-multiplexer.md`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, SubscribeError};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Connection;

/// Hands every reply to the request that waits for it.
#[derive(Debug)]
pub(super) struct Multiplexer {
    prefix: String,
    slots: Arc<Mutex<Slots>>,
    losses: watch::Receiver<u64>,
    ended: CancellationToken,
    intruder: watch::Receiver<Option<Intruder>>,
    _reader: DropGuard,
}

/// A stream that has acknowledged a request in a worker's place.
#[derive(Debug, Clone)]
struct Intruder {
    stream: String,
    seen: Instant,
}

/// How long after its last acknowledgement a stream counts as answering requests.
const INTRUDER_MEMORY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    waiting: HashMap<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    /// How often the link had been lost when the request was registered.
    losses: u64,
    /// Whether only a worker may answer: acknowledgements by a stream are waited past.
    by_worker: bool,
    reply: oneshot::Sender<Result<Message, NoReply>>,
}

/// Why a request got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoReply {
    /// No worker listens on the subject: nothing ran.
    NoResponders,
    /// The link was lost after the request was handed over: it may or may not have run.
    ConnectionLost,
}

/// A request that waits. Dropping it, at whatever await, frees its slot.
#[derive(Debug)]
pub(super) struct Pending {
    token: u64,
    slots: Arc<Mutex<Slots>>,
    reply: oneshot::Receiver<Result<Message, NoReply>>,
    /// The subject the reply must be sent to.
    pub(super) inbox: String,
}

impl Pending {
    /// Waits for the reply. Without a limit of its own: the caller has the deadline.
    pub(super) async fn reply(&mut self) -> Result<Message, NoReply> {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            Err(_) => Err(NoReply::ConnectionLost),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.slots.lock().waiting.remove(&self.token);
    }
}

impl Multiplexer {
    /// Subscribes to this process's inbox and starts handing out replies.
    pub(super) async fn start(connection: &Connection) -> Result<Self, SubscribeError> {
        let prefix = connection.client().new_inbox();
        let mut replies = connection.client().subscribe(format!("{prefix}.>")).await?;
        let slots = Arc::new(Mutex::new(Slots::default()));
        let ended = CancellationToken::new();
        let stop = CancellationToken::new();
        let losses = connection.losses();
        let (intruders, intruder) = watch::channel(None);
        let reader = Reader { prefix: format!("{prefix}."), slots: Arc::clone(&slots), intruders };
        let (mut lost, finished, stopped) = (connection.losses(), ended.clone(), stop.clone());
        // Owned by the guard below: it ends when the multiplexer is dropped.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => break,
                    message = replies.next() => match message {
                        Some(message) => reader.deliver(message),
                        None => break,
                    },
                    changed = lost.changed() => match changed {
                        Ok(()) => reader.fail_before(*lost.borrow_and_update()),
                        Err(_) => break,
                    },
                }
            }
            reader.fail_before(u64::MAX);
            finished.cancel();
        });
        Ok(Self { prefix, slots, losses, ended, intruder, _reader: stop.drop_guard() })
    }

    /// Registers a request.
    pub(super) fn register(&self) -> Pending {
        self.register_under(&self.prefix, false)
    }

    /// Registers a request that only a worker may answer.
    pub(super) fn register_by_worker(&self) -> Pending {
        self.register_under(&self.prefix, true)
    }

    /// The stream that answers requests in the workers' place, if one has done so in the last seconds.
    pub(super) fn intruder(&self) -> Option<String> {
        let intruder = self.intruder.borrow();
        let recent = intruder.as_ref().filter(|intruder| intruder.seen.elapsed() < INTRUDER_MEMORY);
        recent.map(|intruder| intruder.stream.clone())
    }

    /// Registers a message that this process sends to itself. Its subject differs from those of replies, so
    /// that a user may be allowed to publish the one and not the other.
    pub(super) fn register_echo(&self) -> Pending {
        self.register_under(&format!("{}.echo", self.prefix), false)
    }

    fn register_under(&self, prefix: &str, by_worker: bool) -> Pending {
        let (sender, reply) = oneshot::channel();
        let losses = *self.losses.borrow();
        let mut slots = self.slots.lock();
        let token = slots.next;
        slots.next += 1;
        slots.waiting.insert(token, Slot { losses, by_worker, reply: sender });
        Pending { token, slots: Arc::clone(&self.slots), reply, inbox: format!("{prefix}.{token}") }
    }

    /// Resolves when no further reply can arrive: the subscription ended unasked.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether replies can still arrive.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.slots.lock().waiting.len()
    }
}

struct Reader {
    prefix: String,
    slots: Arc<Mutex<Slots>>,
    intruders: watch::Sender<Option<Intruder>>,
}

/// The stream whose acknowledgement this is: a JSON object with its name, without headers, which every reply of a
/// worker has.
fn acknowledging_stream(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Acknowledgement {
        stream: String,
    }
    if message.headers.is_some() {
        return None;
    }
    serde_json::from_slice::<Acknowledgement>(&message.payload)
        .ok()
        .map(|acknowledgement| acknowledgement.stream)
}

impl Reader {
    /// Notes a stream that covers command subjects; says so when it begins.
    fn note_intruder(&self, stream: String) {
        let seen = Instant::now();
        self.intruders.send_if_modified(|before| {
            let known = before.as_ref().is_some_and(|before| {
                before.stream == stream && seen.duration_since(before.seen) < INTRUDER_MEMORY
            });
            if !known {
                tracing::error!(stream, "a stream covers command subjects and answers requests; remove it");
            }
            *before = Some(Intruder { stream, seen });
            !known
        });
    }

    fn deliver(&self, message: Message) {
        let name = message.subject.strip_prefix(self.prefix.as_str());
        let token = name.and_then(|name| name.strip_prefix("echo.").unwrap_or(name).parse::<u64>().ok());
        let mut slots = self.slots.lock();
        // Without one it is late: its request has given up.
        let Some(Entry::Occupied(slot)) = token.map(|token| slots.waiting.entry(token)) else { return };
        if slot.get().by_worker
            && let Some(stream) = acknowledging_stream(&message)
        {
            drop(slots);
            self.note_intruder(stream);
            return;
        }
        let slot = slot.remove();
        drop(slots);
        let reply = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(NoReply::NoResponders),
            _ => Ok(message),
        };
        // Fails when the request gave up meanwhile.
        let _ = slot.reply.send(reply);
    }

    /// Fails every request that was registered before the link was lost for the `losses`th time.
    fn fail_before(&self, losses: u64) {
        let mut slots = self.slots.lock();
        let lost: Vec<u64> =
            slots.waiting.iter().filter(|(_, slot)| slot.losses < losses).map(|(token, _)| *token).collect();
        for token in lost {
            if let Some(slot) = slots.waiting.remove(&token) {
                let _ = slot.reply.send(Err(NoReply::ConnectionLost));
            }
        }
    }
}
