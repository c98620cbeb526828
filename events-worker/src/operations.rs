//! What the events worker does for each operation, one file each, and what all writes have in common.

mod approve;
mod create;
mod delete;
mod get;
mod history;
mod list;
mod reject;
mod submit;
#[cfg(test)]
mod tests;
mod update;
mod withdraw;

use std::convert::Infallible;
use std::sync::Arc;

use contract::auth::UserId;
use contract::events::{
    ChangeError, Event, EventHandlers, EventId, EventStatus, HistoryAction, HistoryEntry,
};
use contract::keyed::is_saved;
use contract::{
    Answer, Context, EntityTag, Failure, IdempotentRequest, Operation, OperationError, Outcome, Principal,
    Problem, ProblemType, Replayable, SavedResponse, SavedResponses,
};
use database::StoreError;
use failpoint::{crash_point, fault_point};

use crate::domain::policy::{Action, Actor, Verdict, judge};
use crate::store::{EventStore, EventTransaction};

/// How often a write is judged anew because another writer was faster.
const MAX_ATTEMPTS: usize = 5;

/// Answers `events.*`.
pub struct Events {
    store: Arc<dyn EventStore>,
}

impl EventHandlers for Events {}

impl SavedResponses for Events {
    async fn find_saved(
        &self,
        write: &IdempotentRequest,
    ) -> Result<Option<SavedResponse>, Failure<Infallible>> {
        Ok(self.store.find_saved(write).await?)
    }
}

/// What one write does within its transaction. It may be done several times; only one is committed.
trait Mutation<O: Operation>: Sync {
    /// Judges, writes and records.
    fn run(
        &self,
        cx: &Context,
        transaction: &mut dyn EventTransaction,
    ) -> impl Future<Output = Result<O::Response, Attempt<O::Error>>> + Send;

    /// Says in the log what was done, once it is.
    fn log_success(&self, response: &O::Response);
}

/// Why one attempt at a write did not succeed.
enum Attempt<E> {
    /// Another write was faster and nothing was written: what was judged has to be judged anew.
    Conflict,
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
            StoreError::Collision(_) => Self::Conflict,
            error => Self::Failed(error.into()),
        }
    }
}

impl Events {
    pub(crate) fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store }
    }

    /// Does `work` exactly once: in one transaction with its history row and, under a key, with the
    /// answer that is saved. A request with the same key, later or at the same time, is given that one.
    async fn write<O>(&self, cx: &Context, work: &impl Mutation<O>) -> Result<Answer, Failure<O::Error>>
    where
        O: Operation<Response: Replayable, Error: OperationError>,
    {
        for _ in 0..MAX_ATTEMPTS {
            match self.write_once(cx, work).await {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Failed(failure)) => return Err(failure),
                Err(Attempt::Conflict) => {}
            }
        }
        tracing::warn!("gave up on a write that is overtaken all the time");
        Err(Failure::Contended)
    }

    async fn write_once<O>(&self, cx: &Context, work: &impl Mutation<O>) -> Result<Answer, Attempt<O::Error>>
    where
        O: Operation<Response: Replayable, Error: OperationError>,
    {
        let organization = cx.principal()?.organization_id;
        let mut transaction = self.store.begin(organization, cx.deadline).await?;
        let (answer, response) = match work.run(cx, &mut *transaction).await {
            Ok(response) => (Answer::of::<O>(&response).map_err(|_| Failure::Internal)?, Some(response)),
            // Judged before anything was written, so that the transaction holds nothing but the refusal.
            Err(Attempt::Failed(Failure::Refused(error))) => match (error.into_problem(), &cx.write) {
                (problem, Some(_)) if is_saved(problem.kind.status()) => {
                    (Answer::refusal(&problem, cx), None)
                }
                (problem, Some(write)) => {
                    // No request waits for a second connection while it holds one.
                    drop(transaction);
                    // An earlier attempt of the same write may have succeeded, and be the reason.
                    let saved = self.store.find_saved(write).await?;
                    let Some(saved) = saved else { return Err(Failure::Problem(problem).into()) };
                    return write.replay(saved).map_err(|reason| Attempt::Failed(reason.into()));
                }
                (problem, None) => return Err(Failure::Problem(problem).into()),
            },
            Err(failed) => return Err(failed),
        };
        crash_point!("effect-done");
        if let Some(write) = &cx.write
            && !fault_point!("forget-saved")
            && !transaction.save_response(write, &write.to_saved(&answer, cx), cx.now).await?
        {
            drop(transaction);
            // Gone again when it was too old: then this write is a new one.
            let saved = self.store.find_saved(write).await.map_err(|error| {
                tracing::warn!(%error, "could not look up an answer that is there");
                let unknown =
                    Problem::new(ProblemType::Unavailable, "the answer cannot be looked up at the moment");
                Failure::Problem(unknown.with_outcome(Outcome::Unknown))
            })?;
            let saved = saved.ok_or(Attempt::Conflict)?;
            return write.replay(saved).map_err(|reason| Attempt::Failed(reason.into()));
        }
        crash_point!("answer-kept");
        match transaction.commit().await {
            Ok(()) => {}
            Err(error @ StoreError::Commit(_)) => return self.after_lost_commit(cx, answer, error).await,
            Err(error) => return Err(error.into()),
        }
        crash_point!("committed");
        if let Some(response) = &response {
            work.log_success(response);
        }
        Ok(answer)
    }

    /// The commit was not answered. Under a key the saved answer says whether it took effect; that it is
    /// not there says nothing: the server may still be at it.
    async fn after_lost_commit<E>(
        &self,
        cx: &Context,
        answer: Answer,
        error: StoreError,
    ) -> Result<Answer, Attempt<E>> {
        if let Some(write) = &cx.write
            && let Ok(Some(saved)) = self.store.find_saved(write).await
        {
            tracing::warn!(%error, "a commit was not answered, but took effect");
            if saved == write.to_saved(&answer, cx) {
                return Ok(answer);
            }
            return write.replay(saved).map_err(|reason| Attempt::Failed(reason.into()));
        }
        Err(Attempt::Failed(error.into()))
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

/// What becomes of an event.
enum Effect {
    /// This.
    Next(Event),
    /// It stays as it is: nothing is written.
    Same,
    /// It is removed.
    Nothing,
}

/// A change to one event: look, judge, write and record. The write is guarded by the status and version
/// that were judged, so of two changes raced on one event one judges anew.
struct Change<'a, F> {
    id: &'a str,
    action: Action,
    recorded_as: HistoryAction,
    apply: F,
}

impl<F> Change<'_, F> {
    /// Changes the event, and returns it as it stands now, or stood before it was removed.
    async fn make<E>(&self, cx: &Context, transaction: &mut dyn EventTransaction) -> Result<Event, Attempt<E>>
    where
        E: From<ChangeError> + Send,
        F: Fn(&Event) -> Result<Effect, E> + Sync,
    {
        let principal = cx.principal()?;
        let refused = |error: ChangeError| Failure::Refused(E::from(error));
        let id = EventId::parse(self.id).ok_or(refused(ChangeError::NotFound))?;
        let found = transaction.find(principal.organization_id, id).await?;
        let event = found.ok_or(refused(ChangeError::NotFound))?;
        let after = permitted(principal, &event, self.action).map_err(refused)?;
        let current = EntityTag(event.version);
        precondition(cx, current).map_err(refused)?;
        let (written, result) = match (self.apply)(&event).map_err(Failure::Refused)? {
            Effect::Same => return Ok(event),
            Effect::Next(mut next) => {
                next.status = after;
                next.version = event.version + 1;
                next.updated_at = cx.now;
                (transaction.replace(&next, event.status, event.version).await?, Some(next))
            }
            Effect::Nothing => (transaction.remove(&event).await?, None),
        };
        if !written {
            return Err(Attempt::Conflict);
        }
        let (actor, from) = (principal.user_id, Some(event.status));
        record(transaction, cx, actor, self.recorded_as, &event, from, result.as_ref()).await?;
        Ok(result.unwrap_or(event))
    }

    fn announce_change(&self) {
        tracing::info!(event_id = self.id, "{} event", self.action.verb());
    }
}

impl<O, F> Mutation<O> for Change<'_, F>
where
    O: Operation<Response = Event, Error: From<ChangeError> + Send>,
    F: Fn(&Event) -> Result<Effect, O::Error> + Sync,
{
    async fn run(
        &self,
        cx: &Context,
        transaction: &mut dyn EventTransaction,
    ) -> Result<Event, Attempt<O::Error>> {
        self.make(cx, transaction).await
    }

    fn log_success(&self, _event: &Event) {
        self.announce_change();
    }
}

/// Whether the event's version is one that the caller wants to change (RFC 9110 §13.2.2).
fn precondition(cx: &Context, current: EntityTag) -> Result<(), ChangeError> {
    match (&cx.if_match, &cx.if_none_match) {
        (Some(wanted), _) if !wanted.matches_strongly(current) => Err(if wanted.matches_weakly(current) {
            ChangeError::WeakTag(current)
        } else {
            ChangeError::VersionMismatch(current)
        }),
        (_, Some(unwanted)) if unwanted.matches_weakly(current) => Err(ChangeError::VersionMatch(current)),
        _ => Ok(()),
    }
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
        correlation_id: cx.ids.correlation_id.as_str().to_owned(),
    };
    transaction.record(event.organization_id, event.id, &entry).await
}
