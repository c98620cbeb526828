//! Brings what an earlier version has stored into the form in which it is compared today.

use std::collections::HashSet;
use std::time::Duration;

use database::StoreError;
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::{AuthStore, OldText};

/// How long the database may take over one row.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for what a worker of an earlier version has added.
const INTERVAL: Duration = Duration::from_secs(60);

/// Renews texts, and names each row that has to stay as it is once.
#[derive(Default)]
pub(crate) struct Renewal {
    named: HashSet<Uuid>,
}

impl Renewal {
    /// Renews every text whose form is another one. One whose form another row has already is left as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn renew(&mut self, store: &AuthStore) -> Result<(), StoreError> {
        self.renew_if(store, |text, form| !text.is_in_form(form)).await
    }

    async fn renew_if(
        &mut self,
        store: &AuthStore,
        wanted: impl Fn(&OldText, &str) -> bool + Send,
    ) -> Result<(), StoreError> {
        for text in store.old_texts().await? {
            let form = text.form();
            if form.as_deref().is_some_and(|form| !wanted(&text, form)) {
                continue;
            }
            let renewed = match &form {
                Some(form) => store.renew_text(&text, form, Instant::now() + TIMEOUT).await?,
                None => false,
            };
            let named = match &text {
                OldText::Organization(id, _) => id.0,
                OldText::User(id, ..) => id.0,
                OldText::Invitation(..) => continue,
            };
            if renewed || !self.named.insert(named) {
                continue;
            }
            match (&text, form) {
                (OldText::Organization(id, _), _) => {
                    tracing::warn!(organization_id = %id, "an organisation looks like another one by its name");
                }
                (_, Some(_)) => {
                    tracing::warn!(user_id = %named, "a user has the address of another one, written in another way, and cannot sign in");
                }
                (_, None) => {
                    tracing::warn!(user_id = %named, "a user's address is not accepted any more, and the user cannot sign in");
                }
            }
        }
        Ok(())
    }

    /// Goes on renewing, what is in its form already included: workers of an earlier version may run beside this one
    /// for a while.
    pub(crate) async fn keep_renewing(mut self, store: &AuthStore) -> ! {
        loop {
            if let Err(error) = self.renew_if(store, |_, _| true).await {
                tracing::warn!(%error, "could not renew stored texts");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
