//! Brings what an earlier version has stored into the form in which it is compared today, before anybody is served.

use std::time::Duration;

use database::StoreError;
use tokio::time::Instant;

use crate::store::{AuthStore, OldText};

/// How long the database may take over one row.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Renews every text that has another form. One whose form another row has already is left as it is, and named.
pub(crate) async fn renew_texts(store: &dyn AuthStore) -> Result<(), StoreError> {
    for text in store.old_texts().await? {
        let Some(form) = text.form() else { continue };
        if store.renew_text(&text, &form, Instant::now() + TIMEOUT).await? {
            continue;
        }
        match &text {
            OldText::Organization(id, _) => {
                tracing::warn!(organization_id = %id, "an organisation looks like another one by its name");
            }
            OldText::User(id, ..) => {
                tracing::warn!(user_id = %id, "a user has the address of another one, written in another way, and cannot sign in");
            }
            OldText::Invitation(..) => {}
        }
    }
    Ok(())
}
