//! Who may do what to an event, as one pure function.

use contract::auth::Role;
use contract::events::EventStatus;

/// What a caller wants to do with an existing event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read it.
    View,
    /// Read what was done to it.
    ViewHistory,
    /// Edit it.
    Update,
    /// Remove it.
    Delete,
    /// Hand it in for a decision.
    Submit,
    /// Take it back.
    Withdraw,
    /// Publish it.
    Approve,
    /// Refuse it.
    Reject,
}

impl Action {
    /// The action as a verb, for messages.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::View | Self::ViewHistory => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Submit => "submit",
            Self::Withdraw => "withdraw",
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }
}

/// The caller as the policy sees them. Organisations never come in here: another organisation's
/// event is not found in the first place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Role within the organisation.
    pub role: Role,
    /// Whether they created the event.
    pub is_creator: bool,
}

/// The policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Yes; the event stands here afterwards.
    Allowed(EventStatus),
    /// The caller may not know that the event exists.
    Invisible,
    /// Role or ownership forbids it, whatever the status.
    Forbidden(&'static str),
    /// The status forbids it.
    WrongState,
}

/// Judges `action` by `actor` on an event that stands at `status`. Visibility comes first, then role
/// and ownership, then the status: who may not act learns nothing about the status.
pub const fn judge(actor: Actor, status: EventStatus, action: Action) -> Verdict {
    use EventStatus::{Approved, Draft, Rejected, Submitted};

    if !sees(actor, status) {
        return Verdict::Invisible;
    }
    match action {
        Action::View => Verdict::Allowed(status),
        Action::ViewHistory => match (actor.role, actor.is_creator) {
            (Role::Moderator | Role::Admin, _) | (_, true) => Verdict::Allowed(status),
            (Role::User, false) => Verdict::Forbidden(
                "only its creator, moderators and administrators may read an event's history",
            ),
        },
        Action::Update => match (actor.role, actor.is_creator, status) {
            (Role::Admin, ..) | (_, true, Draft | Rejected) => Verdict::Allowed(status),
            (_, true, Approved) => Verdict::Allowed(Submitted),
            (_, true, Submitted) => Verdict::WrongState,
            (_, false, _) => Verdict::Forbidden("only its creator or an administrator may edit an event"),
        },
        Action::Delete => match (actor.role, actor.is_creator, status) {
            (Role::Admin, ..) | (_, true, Draft | Rejected) => Verdict::Allowed(status),
            (_, true, Submitted | Approved) => Verdict::WrongState,
            (_, false, _) => Verdict::Forbidden("only its creator or an administrator may delete an event"),
        },
        Action::Submit => match (actor.is_creator, status) {
            (true, Draft | Rejected) => Verdict::Allowed(Submitted),
            (true, Submitted | Approved) => Verdict::WrongState,
            (false, _) => Verdict::Forbidden("only its creator may submit an event"),
        },
        Action::Withdraw => match (actor.is_creator, status) {
            (true, Submitted) => Verdict::Allowed(Draft),
            (true, Draft | Approved | Rejected) => Verdict::WrongState,
            (false, _) => Verdict::Forbidden("only its creator may withdraw an event"),
        },
        Action::Approve => decide(actor, status, Approved),
        Action::Reject => decide(actor, status, Rejected),
    }
}

/// Whether the actor may know of the event.
const fn sees(actor: Actor, status: EventStatus) -> bool {
    match actor.role {
        Role::Moderator | Role::Admin => true,
        Role::User => actor.is_creator || matches!(status, EventStatus::Approved),
    }
}

const fn decide(actor: Actor, status: EventStatus, decision: EventStatus) -> Verdict {
    match (actor.role, actor.is_creator, status) {
        (Role::User, ..) => Verdict::Forbidden("only moderators and administrators may decide on events"),
        (Role::Moderator, true, _) => Verdict::Forbidden("moderators may not decide on their own events"),
        (Role::Moderator | Role::Admin, _, EventStatus::Submitted) => Verdict::Allowed(decision),
        (Role::Moderator | Role::Admin, _, _) => Verdict::WrongState,
    }
}
