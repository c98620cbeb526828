//! A subscription that can be left without losing what the broker has sent already.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many further messages are asked for, one count after the other.
const REMAINING_COUNTS: [u64; 3] = [64, 8, 1];
/// How long the next of them is waited for: while they come, more may be on their way than the next count.
const PATIENCE: Duration = Duration::from_millis(100);

/// A subscription, and how far it has got in leaving.
///
/// The library forgets a subscription the moment it has written UNSUB, and drops what the broker sends until
/// it has read that: requests that are never answered. Both sides do keep count when they are asked to end
/// after a number of messages, so a busy subscription is left that way, exactly. One that gets none for a moment
/// is asked for fewer, and one that then gets none either is simply ended. So is one whose link was
/// lost meanwhile: the broker has begun to count anew, the library has not (`docs/adr/0014-resilience.md`).
pub(super) struct DrainingSubscription {
    subscriber: Subscriber,
    leave: CancellationToken,
    losses: watch::Receiver<u64>,
    /// How often the link had been lost when the subscription was made.
    losses_before: u64,
    /// Messages taken so far.
    taken: u64,
    /// Which count is being waited for, and until when; `None` before it is asked to leave.
    step: Option<(usize, Instant)>,
}

impl DrainingSubscription {
    /// Left once `leave` is cancelled.
    pub(super) fn new(
        subscriber: Subscriber,
        losses: watch::Receiver<u64>,
        leave: CancellationToken,
    ) -> Self {
        let losses_before = *losses.borrow();
        Self { subscriber, leave, losses, losses_before, taken: 0, step: None }
    }

    /// The next message; `None` once the subscription has ended and everything that arrived is taken.
    ///
    /// Cancel safe: what is asked of the broker is asked again.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            let until = self.step.map(|(_, until)| until);
            let turn = async {
                match until {
                    None => self.leave.cancelled().await,
                    Some(until) => tokio::time::sleep_until(until).await,
                }
            };
            tokio::select! {
                biased;
                message = self.subscriber.next() => {
                    self.taken += u64::from(message.is_some());
                    self.step = self.step.map(|(step, _)| (step, Instant::now() + PATIENCE));
                    return message;
                }
                () = turn => self.go_on().await,
            }
        }
    }

    /// Asks for the next, smaller number of messages; at last for none.
    async fn go_on(&mut self) {
        let step = self.step.map_or(0, |(step, _)| step + 1);
        // Either fails when the connection has ended, and the stream with it.
        let counts_agree = *self.losses.borrow() == self.losses_before;
        let _ = match REMAINING_COUNTS.get(step) {
            Some(further) if counts_agree => self.subscriber.unsubscribe_after(self.taken + further).await,
            _ => self.subscriber.drain().await,
        };
        self.step = Some((step, Instant::now() + PATIENCE));
    }
}
