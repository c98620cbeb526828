//! `auth.me`.

use std::convert::Infallible;

use contract::auth::{Account, Me, MeRequest};
use contract::{Context, Failure, Handle};

use super::{Auth, no_account};

impl Handle<Me> for Auth {
    async fn handle(&self, cx: &Context, _request: MeRequest) -> Result<Account, Failure<Infallible>> {
        let principal = cx.principal()?;
        self.store.account(principal.user_id).await?.ok_or_else(no_account)
    }
}
