//! The demo organisations and users.

use std::time::Duration;

use contract::Timestamp;
use contract::auth::{Email, Organization, Secret, User};
use database::StoreError;
use service::demo;
use tokio::time::Instant;

use crate::hasher::{Hasher, HasherError};
use crate::store::{AuthStore, SeedUser};

/// How long the database may take to store the demo data.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the demo data was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Hasher(#[from] HasherError),
}

/// Writes what is missing of the demo data; what is there, however changed, stays.
pub(crate) async fn seed(store: &AuthStore, hasher: &Hasher) -> Result<(), SeedError> {
    let (now, deadline) = (Timestamp::now(), Instant::now() + TIMEOUT);
    let organizations: Vec<Organization> = demo::ORGANIZATIONS
        .iter()
        .map(|demo| Organization { id: demo.id, name: demo.name.to_owned(), slug: demo.slug.to_owned() })
        .collect();
    let mut users = Vec::new();
    for demo in &demo::USERS {
        let email = Email::parse(demo.email).ok_or(StoreError::UnknownValue("demo e-mail address"))?;
        if store.email_exists(&email).await? {
            continue;
        }
        users.push(SeedUser {
            password_hash: hasher.hash(Secret::new(demo::PASSWORD.to_owned()), deadline).await?,
            user: User {
                id: demo.id,
                email,
                first_name: demo.first_name.to_owned(),
                last_name: demo.last_name.to_owned(),
                role: demo.role,
                organization_id: demo.organization,
                created_at: now,
                updated_at: now,
            },
        });
    }
    Ok(store.seed(&organizations, &users, now, deadline).await?)
}
