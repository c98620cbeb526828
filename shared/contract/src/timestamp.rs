//! Points in time as the API shows them: RFC 3339, UTC, milliseconds, `Z`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A point in time with millisecond precision, between the years 1 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

const YEAR_1: i64 = -62_135_596_800_000;
const YEAR_10000: i64 = 253_402_300_800_000;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The last moment that can be shown.
    pub const LATEST: Self = Self(YEAR_10000 - 1);

    /// The moment `millis` after 1970-01-01T00:00:00Z; `None` outside the years 1 to 9999.
    pub fn from_unix_millis(millis: i64) -> Option<Self> {
        (YEAR_1..YEAR_10000).contains(&millis).then_some(Self(millis))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// The current time. Called at the edges only; logic takes the time as an argument.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now() -> Self {
        Self::from(OffsetDateTime::now_utc())
    }

    /// Reads an RFC 3339 date-time with any offset; finer fractions than milliseconds are cut.
    pub fn parse(text: &str) -> Option<Self> {
        // The parser takes any character between date and time.
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
            return None;
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Self::from_unix_millis(millis(parsed))
    }

    /// This moment moved by `seconds`, held within the representable years.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)).clamp(YEAR_1, YEAR_10000 - 1))
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, as JWT claims count.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

fn millis(moment: OffsetDateTime) -> i64 {
    moment.unix_timestamp() * 1000 + i64::from(moment.millisecond())
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(millis(moment).clamp(YEAR_1, YEAR_10000 - 1))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = OffsetDateTime::from_unix_timestamp(self.unix_seconds())
            .map_err(|_| fmt::Error)?
            .to_offset(UtcOffset::UTC);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            self.0.rem_euclid(1000)
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected an RFC 3339 date-time"))
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_offsets_and_writes_utc_milliseconds() {
        let shown = |text| Timestamp::parse(text).map(|moment| moment.to_string());
        assert_eq!(shown("2026-06-15T09:00:00Z").as_deref(), Some("2026-06-15T09:00:00.000Z"));
        assert_eq!(shown("2026-06-15T09:00:00.1239+02:00").as_deref(), Some("2026-06-15T07:00:00.123Z"));
        assert_eq!(shown("1969-12-31T23:59:59.999Z").as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(shown("2026-06-15t09:00:00z").as_deref(), Some("2026-06-15T09:00:00.000Z"));
        for bad in [
            "2026-06-15",
            "2026-06-15T09:00:00",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "2027-06-01x10:00:00Z",
            "2027-06-01 10:00:00Z",
            "2027-06-01_10:00:00Z",
            "2027-06-01T10:00:00.Z",
            "2027-06-01T10:00:00,5Z",
            "2027-06-01T10:00Z",
            "2027-06-01T10:00:00+0200",
            "2027-6-1T10:00:00Z",
            "2027-06-01T24:00:00Z",
            " 2027-06-01T10:00:00Z",
            "2027-06-01T10:00:00Z ",
            "+2027-06-01T10:00:00Z",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
        assert_eq!(shown("9999-12-31T23:59:59-23:59"), None);
    }

    proptest! {
        #[test]
        fn every_representable_moment_survives_text(millis in YEAR_1..YEAR_10000) {
            let moment = Timestamp::from_unix_millis(millis).unwrap();
            prop_assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[0-9TZ:.+-]{10,35}") {
            let _ = Timestamp::parse(&text).map(|moment| moment.to_string());
        }
    }
}
