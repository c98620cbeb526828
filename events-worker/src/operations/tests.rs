//! What all writes have in common, on databases with faults.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use contract::auth::{OrganizationId, Role, SessionId};
use contract::events::{Create, CreateRequest, PlacedEntry};
use contract::{CorrelationId, HandleKeyed, IdempotencyKey, KeyOrigin, RequestIds, Timestamp, TraceContext};
use database::PingError;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::store::{ListQuery, Listing};

/// A database on which transactions collide a few times, and which is away after that.
struct Colliding {
    collisions: usize,
    begun: AtomicUsize,
}

fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
}

#[async_trait]
impl EventStore for Colliding {
    async fn ping(&self) -> Result<(), PingError> {
        Ok(())
    }

    async fn begin(
        &self,
        _organization: OrganizationId,
        _deadline: Instant,
    ) -> Result<Box<dyn EventTransaction>, StoreError> {
        if self.begun.fetch_add(1, Ordering::Relaxed) < self.collisions {
            // What Postgres reports as serialization_failure or deadlock_detected.
            return Err(StoreError::Collision(sqlx::Error::PoolClosed));
        }
        away()
    }

    async fn find(&self, _: OrganizationId, _: EventId) -> Result<Option<Event>, StoreError> {
        away()
    }

    async fn list(&self, _: &ListQuery, _: Instant) -> Result<Listing, StoreError> {
        away()
    }

    async fn find_saved(&self, _: &IdempotentRequest) -> Result<Option<SavedResponse>, StoreError> {
        away()
    }

    async fn forget_answers(&self, _: Timestamp, _: i64, _: Instant) -> Result<u64, StoreError> {
        away()
    }

    async fn fold_texts(&self, _: i64, _: Instant) -> Result<usize, StoreError> {
        away()
    }

    async fn history(
        &self,
        _: OrganizationId,
        _: EventId,
        _: Option<i64>,
        _: i64,
    ) -> Result<Vec<PlacedEntry>, StoreError> {
        away()
    }
}

fn context() -> Context {
    Context {
        ids: RequestIds { correlation_id: CorrelationId::mint(), trace: TraceContext::NONE },
        now: Timestamp::now(),
        deadline: Instant::now(),
        write: None,
        if_match: None,
        if_none_match: None,
        principal: Some(principal()),
        client_network: None,
        max_reply: 1 << 20,
    }
}

fn principal() -> Principal {
    Principal {
        user_id: UserId(Uuid::now_v7()),
        organization_id: OrganizationId(Uuid::now_v7()),
        role: Role::User,
        session_id: SessionId(Uuid::now_v7()),
        token_version: 0,
        expires_at: Timestamp::now(),
    }
}

struct Nothing;

impl Mutation<Create> for Nothing {
    async fn run(
        &self,
        _cx: &Context,
        _transaction: &mut dyn EventTransaction,
    ) -> Result<Event, Attempt<Infallible>> {
        Err(Attempt::Conflict)
    }

    fn log_success(&self, _event: &Event) {}
}

async fn written_after(collisions: usize) -> (Failure<Infallible>, usize) {
    let store = Arc::new(Colliding { collisions, begun: AtomicUsize::new(0) });
    let cx = context();
    let failure = Events::new(Arc::clone(&store) as Arc<dyn EventStore>).write(&cx, &Nothing).await;
    (failure.unwrap_err(), store.begun.load(Ordering::Relaxed))
}

/// A database whose commits take effect, or do not, and are never answered.
struct Unanswered {
    inner: Arc<dyn EventStore>,
    takes_effect: bool,
}

struct UnansweredTransaction(Box<dyn EventTransaction>, bool);

#[async_trait]
impl EventStore for Unanswered {
    async fn ping(&self) -> Result<(), PingError> {
        self.inner.ping().await
    }

    async fn begin(
        &self,
        organization: OrganizationId,
        deadline: Instant,
    ) -> Result<Box<dyn EventTransaction>, StoreError> {
        Ok(Box::new(UnansweredTransaction(
            self.inner.begin(organization, deadline).await?,
            self.takes_effect,
        )))
    }

    async fn find(&self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        self.inner.find(organization, id).await
    }

    async fn list(&self, query: &ListQuery, deadline: Instant) -> Result<Listing, StoreError> {
        self.inner.list(query, deadline).await
    }

    async fn find_saved(&self, write: &IdempotentRequest) -> Result<Option<SavedResponse>, StoreError> {
        self.inner.find_saved(write).await
    }

    async fn forget_answers(&self, before: Timestamp, limit: i64, by: Instant) -> Result<u64, StoreError> {
        self.inner.forget_answers(before, limit, by).await
    }

    async fn fold_texts(&self, limit: i64, deadline: Instant) -> Result<usize, StoreError> {
        self.inner.fold_texts(limit, deadline).await
    }

    async fn history(
        &self,
        organization: OrganizationId,
        id: EventId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PlacedEntry>, StoreError> {
        self.inner.history(organization, id, after, limit).await
    }
}

#[async_trait]
impl EventTransaction for UnansweredTransaction {
    async fn find(&mut self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        self.0.find(organization, id).await
    }

    async fn insert(&mut self, event: &Event) -> Result<bool, StoreError> {
        self.0.insert(event).await
    }

    async fn replace(&mut self, next: &Event, status: EventStatus, version: i64) -> Result<bool, StoreError> {
        self.0.replace(next, status, version).await
    }

    async fn remove(&mut self, event: &Event) -> Result<bool, StoreError> {
        self.0.remove(event).await
    }

    async fn record(
        &mut self,
        organization: OrganizationId,
        id: EventId,
        entry: &HistoryEntry,
    ) -> Result<(), StoreError> {
        self.0.record(organization, id, entry).await
    }

    async fn save_response(
        &mut self,
        write: &IdempotentRequest,
        answer: &SavedResponse,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.0.save_response(write, answer, now).await
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.1 {
            self.0.commit().await?;
        }
        Err(StoreError::Commit(sqlx::Error::PoolClosed))
    }
}

#[tokio::test]
async fn a_commit_without_an_answer_is_looked_up_under_its_key() {
    for (keyed, takes_effect) in [(true, true), (true, false), (false, true)] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("events.db");
        let inner: Arc<dyn EventStore> = Arc::new(
            crate::store::SqlEventStore::open(database::DatabaseUrl::Sqlite(file), 1, 0).await.unwrap(),
        );
        let events = Events::new(Arc::new(Unanswered { inner: Arc::clone(&inner), takes_effect }));
        let principal = principal();
        let key = IdempotencyKey::parse("k").unwrap();
        let write =
            IdempotentRequest::new(Some(&principal), &key, KeyOrigin::Client, "events.create", &json!({}));
        let mut cx = context();
        cx.deadline = Instant::now() + std::time::Duration::from_secs(10);
        cx.write = keyed.then(|| write.clone());
        cx.principal = Some(principal);
        let request = CreateRequest {
            title: "Once".to_owned(),
            description: "Test".to_owned(),
            location: None,
            start_date: Timestamp::parse("2026-01-01T00:00:00Z").unwrap(),
            end_date: Timestamp::parse("2026-01-02T00:00:00Z").unwrap(),
        };
        let answer = HandleKeyed::<Create>::handle(&events, &cx, request).await;
        let saved = inner.find_saved(&write).await.unwrap();
        match (keyed, takes_effect) {
            (true, true) => {
                let answer = answer.unwrap();
                assert_eq!((answer.status, &answer.first), (201, &None));
                assert_eq!(saved.unwrap().body, answer.body);
            }
            (true, false) => assert_eq!((answer, saved), (Err(Failure::CommitUnknown), None)),
            (false, _) => assert_eq!((answer, saved), (Err(Failure::CommitUnknown), None)),
        }
    }
}

#[tokio::test]
async fn collisions_are_tried_again_and_given_up_in_the_end() {
    assert_eq!(written_after(0).await, (Failure::StoreUnavailable, 1));
    assert_eq!(written_after(MAX_ATTEMPTS - 1).await, (Failure::StoreUnavailable, MAX_ATTEMPTS));
    assert_eq!(written_after(MAX_ATTEMPTS).await, (Failure::Contended, MAX_ATTEMPTS));
}
