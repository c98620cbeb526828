//! Replies: one inbox subscription for every request of a process.
//!
//! Replaces `async_nats::Client::request`, which leaks a slot per unanswered request and leaves
//! requests waiting after the connection broke (`docs/adr/0003-own-reply-multiplexer.md`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, StatusCode, SubscribeError};
use futures_util::StreamExt;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Connection;

/// Hands every reply to the request that waits for it.
#[derive(Debug)]
pub(super) struct Multiplexer {
    prefix: String,
    slots: Arc<Mutex<Slots>>,
    losses: watch::Receiver<u64>,
    ended: CancellationToken,
    _reader: DropGuard,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    waiting: HashMap<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    /// How often the link had been lost when the request was registered.
    losses: u64,
    reply: oneshot::Sender<Result<Message, NoReply>>,
}

/// Why a request got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoReply {
    /// Nobody listens on the subject: nothing ran.
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
        lock(&self.slots).waiting.remove(&self.token);
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
        let reader = Reader { prefix: format!("{prefix}."), slots: Arc::clone(&slots) };
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
        Ok(Self { prefix, slots, losses, ended, _reader: stop.drop_guard() })
    }

    /// Registers a request.
    pub(super) fn register(&self) -> Pending {
        self.register_under(&self.prefix)
    }

    /// Registers a message that this process sends to itself. Its subject differs from those of replies, so
    /// that a user may be allowed to publish the one and not the other.
    pub(super) fn register_echo(&self) -> Pending {
        self.register_under(&format!("{}.echo", self.prefix))
    }

    fn register_under(&self, prefix: &str) -> Pending {
        let (sender, reply) = oneshot::channel();
        let losses = *self.losses.borrow();
        let mut slots = lock(&self.slots);
        let token = slots.next;
        slots.next += 1;
        slots.waiting.insert(token, Slot { losses, reply: sender });
        Pending { token, slots: Arc::clone(&self.slots), reply, inbox: format!("{prefix}.{token}") }
    }

    /// Resolves when no further reply can arrive: the subscription ended although nobody asked.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether replies can still arrive.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.slots).waiting.len()
    }
}

struct Reader {
    prefix: String,
    slots: Arc<Mutex<Slots>>,
}

impl Reader {
    fn deliver(&self, message: Message) {
        let name = message.subject.strip_prefix(self.prefix.as_str());
        let token = name.and_then(|name| name.strip_prefix("echo.").unwrap_or(name).parse::<u64>().ok());
        let Some(slot) = token.and_then(|token| lock(&self.slots).waiting.remove(&token)) else {
            // Late: its request has given up.
            return;
        };
        let reply = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(NoReply::NoResponders),
            _ => Ok(message),
        };
        // Fails when the request gave up meanwhile.
        let _ = slot.reply.send(reply);
    }

    /// Fails every request that was registered before the link was lost for the `losses`th time.
    fn fail_before(&self, losses: u64) {
        let mut slots = lock(&self.slots);
        let lost: Vec<u64> =
            slots.waiting.iter().filter(|(_, slot)| slot.losses < losses).map(|(token, _)| *token).collect();
        for token in lost {
            if let Some(slot) = slots.waiting.remove(&token) {
                let _ = slot.reply.send(Err(NoReply::ConnectionLost));
            }
        }
    }
}

/// No code panics while it holds the lock; should one ever, the map is still whole.
fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
