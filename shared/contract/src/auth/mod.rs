//! Operations and types of the auth service.

mod change_password;
mod end_session;
mod invite;
mod login;
mod logout;
mod logout_all;
mod me;
mod members;
mod password;
mod refresh;
mod sessions;
mod signup;
mod update_member;

use std::fmt;

use email_address::{EmailAddress, Options};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strum::{EnumString, IntoStaticStr};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::text::identifier;
use super::{Response, Timestamp};

pub use change_password::{ChangePassword, ChangePasswordError, ChangePasswordRequest};
pub use end_session::{EndSession, EndSessionError, EndSessionRequest};
pub use invite::{Invitation, Invite, InviteError, InviteRequest};
pub use login::{Login, LoginError, LoginRequest};
pub use logout::{Logout, LogoutRequest};
pub use logout_all::{LogoutAll, LogoutAllRequest};
pub use me::{Account, Me, MeRequest};
pub use members::{Member, MemberPage, Members, MembersError, MembersRequest};
pub use password::RefusedPassword;
pub use refresh::{Refresh, RefreshError, RefreshRequest};
pub use sessions::{OpenSession, SessionList, SessionPosition, Sessions, SessionsError, SessionsRequest};
pub use signup::{Signup, SignupError, SignupRequest};
pub use update_member::{UpdateMember, UpdateMemberError, UpdateMemberRequest};

crate::service! {
    /// Everything the auth worker must answer.
    AuthHandlers, "auth", admin port 9101,
    [Login, Refresh, Logout, Me, Sessions, Members],
    once [Signup, ChangePassword, LogoutAll, EndSession, Invite, UpdateMember]
}

/// Largest body of an auth operation, in bytes.
pub const MAX_AUTH_BODY: usize = 8 * 1024;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// Reads the hyphenated form only: one id, one spelling.
            pub fn parse(text: &str) -> Option<Self> {
                (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Self)
            }
        }
    };
}
pub(crate) use id;

id! {
    /// A user.
    UserId
}
id! {
    /// An organisation, the unit of tenancy.
    OrganizationId
}
id! {
    /// One signed-in session: a chain of refresh tokens.
    SessionId
}

/// What a user may do within the organisation, least first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
pub enum Role {
    /// Creates events.
    User,
    /// Decides on others' events.
    Moderator,
    /// Everything within the organisation.
    Admin,
}

impl Role {
    /// The role as it stands in JSON, tokens and rows.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An e-mail address in its one form: what differs in case, in how it is composed, or in how the name of its host is
/// written (RFC 5890), is one address. Masked in `Debug`: it is personal data.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Email(String);

impl Email {
    /// Reads and normalises an address: at most 254 characters, one `@`, a domain with a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let normal = normal_address(text.trim())?;
        let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
        let acceptable = normal.len() <= 254 && !normal.chars().any(char::is_control);
        (acceptable && EmailAddress::parse_with_options(&normal, options).is_ok()).then_some(Self(normal))
    }

    /// An address as it is stored. Earlier, less strict rules may have accepted it; its user keeps it.
    pub const fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The address, for the store and for responses to its owner.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The address in its one form; `None` when its host cannot have a name like that.
fn normal_address(text: &str) -> Option<String> {
    let normal = identifier(text);
    match normal.rsplit_once('@') {
        Some((local, host)) if !host.is_ascii() || host.contains("xn--") => {
            idna::domain_to_ascii(host).ok().map(|host| format!("{local}@{host}"))
        }
        _ => Some(normal),
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected an e-mail address"))
    }
}

fn string_schema(format: &str, length: std::ops::RangeInclusive<usize>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom(format.to_owned())))
        .min_length(Some(*length.start()))
        .max_length(Some(*length.end()))
}

impl PartialSchema for Email {
    fn schema() -> RefOr<Schema> {
        string_schema("email", 3..=254).into()
    }
}

impl ToSchema for Email {}

/// A secret of the client: a password or a token. Never shown by `Debug`, wiped when dropped.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a secret over.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The secret itself; every use stands out.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        string_schema("password", 1..=4096).into()
    }
}

impl ToSchema for Secret {}

/// A user as shown to themselves and to their administrators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The normalised address.
    pub email: Email,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Role within the organisation.
    pub role: Role,
    /// The organisation.
    pub organization_id: OrganizationId,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// An organisation as its members see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    /// The organisation's id.
    pub id: OrganizationId,
    /// The name as given.
    pub name: String,
    /// The name reduced to letters, digits and hyphens; unique.
    pub slug: String,
}

/// A signed-in session: the answer to signup, login and refresh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedIn {
    /// The user.
    pub user: User,
    /// A bearer token (RFC 6750), a JWT (RFC 9068).
    pub access_token: Secret,
    /// Exchanged for a new pair at `/auth/refresh`.
    pub refresh_token: Secret,
    /// Seconds until the access token ends.
    pub expires_in: i64,
}

impl Response for SignedIn {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised_or_refused() {
        assert_eq!(Email::parse(" Admin@Acme.COM ").unwrap().as_str(), "admin@acme.com");
        for bad in
            ["", "a", "a@b", "a@@b.com", "a b@c.com", "@c.com", "a@c.com\nx", "A <a@c.com>", "a@[127.0.0.1]"]
        {
            assert!(Email::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_no_secret_and_no_address() {
        let shown = format!("{:?} {:?}", Secret::new("hunter2".into()), Email::parse("a@b.com"));
        assert!(!shown.contains("hunter2") && !shown.contains("a@b.com"), "{shown}");
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = "00000000-0000-0000-0000-000000000001";
        assert_eq!(UserId::parse(id).unwrap().to_string(), id);
        for bad in ["", "1", "{00000000-0000-0000-0000-000000000001}", "00000000000000000000000000000001"] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }
}
