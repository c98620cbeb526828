//! What the events worker does for each operation, one file each, and what all changes have in common.

mod approve;
mod create;
mod delete;
mod get;
mod history;
mod list;
mod reject;
mod submit;
mod update;
mod withdraw;

use std::sync::Arc;

use database::StoreError;
use shared::contract::auth::UserId;
use shared::contract::events::{
    ChangeError, Event, EventHandlers, EventId, EventStatus, HistoryAction, HistoryEntry,
};
use shared::contract::{Context, EntityTag, Failure, Principal};

use crate::domain::policy::{Action, Actor, Verdict, judge};
use crate::store::{EventStore, EventTransaction};

/// How often a change is judged anew because somebody else was faster.
const MAX_ATTEMPTS: usize = 5;

/// Answers `events.*`.
pub(crate) struct Events {
    store: Arc<dyn EventStore>,
}

impl EventHandlers for Events {}

/// What becomes of an event.
enum Change {
    /// It becomes this.
    Becomes(Event),
    /// It stays as it is: nothing is written.
    Stays,
    /// It is removed.
    Vanishes,
}

/// Why one attempt at a write did not succeed.
enum Attempt<E> {
    /// Somebody else was faster and nothing was written: what was judged has to be judged anew.
    Overtaken,
    /// Trying again would not help.
    Failed(Failure<E>),
}

impl<E> From<Failure<E>> for Attempt<E> {
    fn from(failure: Failure<E>) -> Self {
        Self::Failed(failure)
    }
}

impl<E> From<StoreError> for Attempt<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Collision(_) => Self::Overtaken,
            error => Self::Failed(error.into()),
        }
    }
}

impl Events {
    pub(crate) fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store }
    }

    /// Changes one event: look, judge, write and record, in one transaction. The write is guarded by
    /// the status and version that were judged, so of two changes raced on one event one judges anew.
    async fn change<E>(
        &self,
        cx: &Context,
        id: &str,
        (action, recorded_as): (Action, HistoryAction),
        apply: impl Fn(&Event) -> Result<Change, E> + Send + Sync,
    ) -> Result<Event, Failure<E>>
    where
        E: From<ChangeError> + Send,
    {
        let principal = cx.principal()?;
        let refused = |error: ChangeError| Failure::Refused(E::from(error));
        let id = EventId::parse(id).ok_or(refused(ChangeError::NotFound))?;
        let apply = &apply;
        attempt(|| async move {
            let mut transaction = self.store.begin(cx.deadline).await?;
            let found = transaction.find(principal.organization_id, id).await?;
            let event = found.ok_or(refused(ChangeError::NotFound))?;
            let after = permitted(principal, &event, action).map_err(refused)?;
            let current = EntityTag(event.version);
            if cx.if_match.as_ref().is_some_and(|wanted| !wanted.matches_strongly(current)) {
                return Err(refused(ChangeError::VersionMismatch(current)).into());
            }
            let (written, result) = match apply(&event).map_err(Failure::Refused)? {
                Change::Stays => return Ok(event),
                Change::Becomes(mut next) => {
                    next.status = after;
                    next.version = event.version + 1;
                    next.updated_at = cx.now;
                    (transaction.replace(&next, event.status, event.version).await?, Some(next))
                }
                Change::Vanishes => (transaction.remove(&event).await?, None),
            };
            if !written {
                return Err(Attempt::Overtaken);
            }
            let (actor, from) = (principal.user_id, Some(event.status));
            record(&mut *transaction, cx, actor, recorded_as, &event, from, result.as_ref()).await?;
            transaction.commit().await?;
            tracing::info!(event_id = %id, "{} event", action.verb());
            Ok(result.unwrap_or(event))
        })
        .await
    }

    /// The event, if the caller may see it.
    async fn visible(&self, principal: &Principal, id: &str) -> Result<Option<Event>, StoreError> {
        let Some(id) = EventId::parse(id) else {
            return Ok(None);
        };
        let event = self.store.find(principal.organization_id, id).await?;
        Ok(event.filter(|event| permitted(principal, event, Action::View).is_ok()))
    }
}

/// Runs a write until it is not in somebody else's way, a few times at most.
async fn attempt<T, E, F>(write: impl Fn() -> F + Send + Sync) -> Result<T, Failure<E>>
where
    F: Future<Output = Result<T, Attempt<E>>> + Send,
{
    for _ in 0..MAX_ATTEMPTS {
        match write().await {
            Ok(written) => return Ok(written),
            Err(Attempt::Failed(failure)) => return Err(failure),
            Err(Attempt::Overtaken) => {}
        }
    }
    tracing::warn!("gave up on an event that changes all the time");
    Err(Failure::Overloaded)
}

fn actor(principal: &Principal, event: &Event) -> Actor {
    Actor { role: principal.role, is_creator: event.created_by_id == principal.user_id }
}

/// Where the event stands after `action`, or why it may not happen.
fn permitted(principal: &Principal, event: &Event, action: Action) -> Result<EventStatus, ChangeError> {
    match judge(actor(principal, event), event.status, action) {
        Verdict::Allowed(after) => Ok(after),
        Verdict::Invisible => Err(ChangeError::NotFound),
        Verdict::Forbidden(why) => Err(ChangeError::NotAllowed(why)),
        Verdict::WrongState => Err(ChangeError::WrongState { action: action.verb(), status: event.status }),
    }
}

/// Appends the history row of a change to `event`, which stands at `after`'s status now.
async fn record(
    transaction: &mut dyn EventTransaction,
    cx: &Context,
    actor: UserId,
    action: HistoryAction,
    event: &Event,
    from: Option<EventStatus>,
    after: Option<&Event>,
) -> Result<(), StoreError> {
    let rejection = after.filter(|_| action == HistoryAction::Rejected);
    let entry = HistoryEntry {
        at: cx.now,
        actor,
        action,
        from,
        to: after.map(|event| event.status),
        reason: rejection.and_then(|event| event.rejection_reason.clone()),
        correlation_id: cx.correlation_id.as_str().to_owned(),
    };
    transaction.record(event.organization_id, event.id, &entry).await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A write that is in somebody's way `collisions` times.
    async fn written_after(collisions: usize) -> (Result<usize, Failure<Infallible>>, usize) {
        let tried = AtomicUsize::new(0);
        let written = attempt(|| async {
            let before = tried.fetch_add(1, Ordering::Relaxed);
            if before < collisions {
                // What Postgres reports as serialization_failure or deadlock_detected.
                return Err(StoreError::Collision(sqlx::Error::PoolClosed).into());
            }
            Ok(before)
        })
        .await;
        (written, tried.into_inner())
    }

    #[tokio::test]
    async fn collisions_are_tried_again_and_given_up_in_the_end() {
        assert!(matches!(written_after(0).await, (Ok(0), 1)));
        assert!(matches!(written_after(MAX_ATTEMPTS - 1).await, (Ok(4), MAX_ATTEMPTS)));
        assert!(matches!(written_after(MAX_ATTEMPTS).await, (Err(Failure::Overloaded), MAX_ATTEMPTS)));
    }

    #[tokio::test]
    async fn other_failures_are_final() {
        let tried = AtomicUsize::new(0);
        let written: Result<(), Failure<Infallible>> = attempt(|| async {
            tried.fetch_add(1, Ordering::Relaxed);
            Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut).into())
        })
        .await;
        assert!(matches!(written, Err(Failure::StoreUnavailable)));
        assert_eq!(tried.into_inner(), 1);
    }
}
