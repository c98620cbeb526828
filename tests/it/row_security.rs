//! The database's own rules: a statement that forgets its organisation changes nobody else's rows.

use auth_worker::store::AuthStore;
use contract::auth::OrganizationId;
use contract::events::Event;
use database::{DatabaseSettings, DatabaseUrl};
use events_worker::store::SqlEventStore;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::event_store::{HOME, event, soon};
use crate::harness::postgres::Postgres;

const OTHER: OrganizationId = OrganizationId(Uuid::from_u128(99));

fn settings(url: &SecretString) -> DatabaseUrl {
    DatabaseSettings::at(Some(url.clone())).resolve("unused".as_ref()).unwrap()
}

/// Both databases with their schemas.
async fn migrated() -> [SecretString; 2] {
    let server = Postgres::shared().await;
    let (auth, events) = (server.database().await, server.database().await);
    AuthStore::open(settings(&auth), 2, 100).await.unwrap();
    SqlEventStore::open(settings(&events), 2, 100).await.unwrap();
    [auth, events]
}

async fn connect(url: &SecretString) -> PgConnection {
    PgConnection::connect(url.expose_secret()).await.unwrap()
}

/// Runs a statement for an organisation, as a transaction of a worker's does, and returns how many rows it
/// changed.
async fn change(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    statement: &'static str,
) -> Result<u64, String> {
    let mut transaction = connection.begin().await.unwrap();
    if let Some(organization) = organization {
        database::act_for(&mut *transaction, organization.0).await.unwrap();
    }
    let changed =
        sqlx::query(statement).execute(&mut *transaction).await.map_err(|error| error.to_string())?;
    transaction.commit().await.unwrap();
    Ok(changed.rows_affected())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_organisations_has_policies_that_bind_its_owner() {
    let mut tables = Vec::new();
    for url in migrated().await {
        let mut connection = connect(&url).await;
        let found: Vec<(String, bool, bool, Vec<String>)> = sqlx::query_as(
            "SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity, \
             array(SELECT p.cmd::text || ' ' || coalesce(p.qual, p.with_check) \
                   FROM pg_policies p WHERE p.tablename = c.relname AND p.cmd <> 'SELECT' ORDER BY 1) \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE c.relkind = 'r' AND a.attname = 'organization_id' ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        for (table, enabled, forced, policies) in found {
            assert!(enabled && forced, "{table}");
            let bound = |policy: &String| {
                policy.contains("organization_id = acting_organization()") || policy.contains("kept_at <")
            };
            assert!(!policies.is_empty() && policies.iter().all(bound), "{table}: {policies:?}");
            tables.push(table);
        }
        let exempt: bool =
            sqlx::query_scalar("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert!(!exempt, "nothing would be tested");
    }
    assert_eq!(tables, ["invitations", "users", "event_history", "events", "outcomes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_forgets_its_organisation_changes_no_other() {
    let [_, url] = migrated().await;
    let store = SqlEventStore::open(settings(&url), 2, 100).await.unwrap();
    for event in [event(1), event(2), Event { organization_id: OTHER, ..event(3) }] {
        let store: &dyn events_worker::store::EventStore = &store;
        let mut transaction = store.begin(event.organization_id, soon()).await.unwrap();
        assert!(transaction.insert(&event).await.unwrap());
        transaction.commit().await.unwrap();
    }
    let mut connection = connect(&url).await;
    for (organization, changed) in [(Some(HOME), 2), (Some(OTHER), 1), (None, 0)] {
        let updated = change(&mut connection, organization, "UPDATE events SET title = 'Stolen'").await;
        assert_eq!(updated, Ok(changed), "{organization:?}");
    }
    let foreign = "INSERT INTO event_history (event_id, organization_id, at, actor_id, action, correlation_id) \
         VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000063', now(), gen_random_uuid(), \
         'created', 'x')";
    for organization in [Some(HOME), None] {
        let refused = change(&mut connection, organization, foreign).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("row-level security")), "{refused:?}");
    }
    assert_eq!(change(&mut connection, Some(OTHER), foreign).await, Ok(1));
    for statement in ["UPDATE event_history SET reason = 'other'", "DELETE FROM event_history"] {
        assert_eq!(change(&mut connection, Some(OTHER), statement).await, Ok(0), "{statement}");
    }
    // Moving a row to another organisation is a change of both.
    let moved = "UPDATE events SET organization_id = '00000000-0000-0000-0000-000000000063'";
    assert!(change(&mut connection, Some(HOME), moved).await.is_err());
    assert_eq!(change(&mut connection, Some(HOME), "DELETE FROM events").await, Ok(2));
    assert_eq!(change(&mut connection, None, "DELETE FROM events").await, Ok(0));
    // What one transaction may, the next one on the same connection may not.
    assert_eq!(change(&mut connection, None, "UPDATE events SET title = 'Late'").await, Ok(0));
}
