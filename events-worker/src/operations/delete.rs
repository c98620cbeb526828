//! `events.delete`.

use contract::events::{ChangeError, Delete, Event, EventRequest, HistoryAction};
use contract::{Answer, Context, Failure, HandleKeyed, NoContent};

use super::{Attempt, Change, Effect, Events, Mutation};
use crate::domain::policy::Action;
use crate::store::EventTransaction;

/// What becomes of an event that is deleted.
type Vanish = fn(&Event) -> Result<Effect, ChangeError>;

/// The change that answers with nothing.
struct Removal<'a>(Change<'a, Vanish>);

impl Mutation<Delete> for Removal<'_> {
    async fn run(
        &self,
        cx: &Context,
        transaction: &mut dyn EventTransaction,
    ) -> Result<NoContent, Attempt<ChangeError>> {
        self.0.make(cx, transaction).await?;
        Ok(NoContent {})
    }

    fn log_success(&self, _response: &NoContent) {
        self.0.announce_change();
    }
}

impl HandleKeyed<Delete> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Answer, Failure<ChangeError>> {
        let change = Change {
            id: &request.id,
            action: Action::Delete,
            recorded_as: HistoryAction::Deleted,
            apply: (|_| Ok(Effect::Nothing)) as Vanish,
        };
        self.write::<Delete>(cx, &Removal(change)).await
    }
}
