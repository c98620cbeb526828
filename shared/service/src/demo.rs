//! The demo data both workers seed, so that the README's walkthrough works on a fresh start.

use uuid::Uuid;

use contract::auth::{OrganizationId, Role, UserId};
use contract::events::EventStatus;

/// The password of every demo user.
pub const PASSWORD: &str = "Password123!";

/// A demo organisation.
#[derive(Debug, Clone, Copy)]
pub struct DemoOrganization {
    /// Fixed, so that both workers agree without asking each other.
    pub id: OrganizationId,
    /// Its name.
    pub name: &'static str,
    /// Its slug.
    pub slug: &'static str,
}

/// A demo user.
#[derive(Debug, Clone, Copy)]
pub struct DemoUser {
    /// Fixed, so that both workers agree without asking each other.
    pub id: UserId,
    /// The organisation.
    pub organization: OrganizationId,
    /// The address to sign in with.
    pub email: &'static str,
    /// Given name.
    pub first_name: &'static str,
    /// Family name.
    pub last_name: &'static str,
    /// Role.
    pub role: Role,
}

/// A demo event.
#[derive(Debug, Clone, Copy)]
pub struct DemoEvent {
    /// The number its id ends in.
    pub number: u128,
    /// Title.
    pub title: &'static str,
    /// Description.
    pub description: &'static str,
    /// Place.
    pub location: &'static str,
    /// Begin, RFC 3339.
    pub start_date: &'static str,
    /// End, RFC 3339.
    pub end_date: &'static str,
    /// Where it stands.
    pub status: EventStatus,
    /// Who wrote it.
    pub creator: DemoUser,
}

/// The demo organisations.
pub const ORGANIZATIONS: [DemoOrganization; 2] = [
    DemoOrganization { id: ACME, name: "Acme Corporation", slug: "acme-corp" },
    DemoOrganization { id: TECH, name: "Tech Innovators", slug: "tech-innovators" },
];

const ACME: OrganizationId = OrganizationId(Uuid::from_u128(0xa1));
const TECH: OrganizationId = OrganizationId(Uuid::from_u128(0xa2));

const ACME_ADMIN: DemoUser = user(0xb1, ACME, "admin@acme.com", "Alice", "Admin", Role::Admin);
const ACME_MODERATOR: DemoUser = user(0xb2, ACME, "moderator@acme.com", "Mo", "Moderator", Role::Moderator);
const ACME_USER: DemoUser = user(0xb3, ACME, "user@acme.com", "Uma", "User", Role::User);
const TECH_USER: DemoUser = user(0xb4, TECH, "user@techinnovators.com", "Theo", "Tech", Role::User);

/// The demo users.
pub const USERS: [DemoUser; 4] = [ACME_ADMIN, ACME_MODERATOR, ACME_USER, TECH_USER];

const fn user(
    number: u128,
    organization: OrganizationId,
    email: &'static str,
    first_name: &'static str,
    last_name: &'static str,
    role: Role,
) -> DemoUser {
    DemoUser { id: UserId(Uuid::from_u128(number)), organization, email, first_name, last_name, role }
}

/// The demo events.
pub const EVENTS: [DemoEvent; 3] = [
    DemoEvent {
        number: 1,
        title: "Annual Tech Conference 2026",
        description: "Three days of talks and workshops on what the industry learned this year.",
        location: "San Francisco, CA",
        start_date: "2026-06-15T09:00:00Z",
        end_date: "2026-06-17T18:00:00Z",
        status: EventStatus::Approved,
        creator: ACME_ADMIN,
    },
    DemoEvent {
        number: 2,
        title: "Team Building Workshop",
        description: "A day of exercises for people who work together and rarely meet.",
        location: "Office",
        start_date: "2026-03-20T10:00:00Z",
        end_date: "2026-03-20T16:00:00Z",
        status: EventStatus::Submitted,
        creator: ACME_USER,
    },
    DemoEvent {
        number: 3,
        title: "Innovation Summit",
        description: "An afternoon of short talks on ideas that are not products yet.",
        location: "Virtual",
        start_date: "2026-04-10T14:00:00Z",
        end_date: "2026-04-10T17:00:00Z",
        status: EventStatus::Draft,
        creator: TECH_USER,
    },
];
