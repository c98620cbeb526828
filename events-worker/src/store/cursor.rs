//! Cursors: where a keyset walk stands, as an opaque token.

use contract::Timestamp;
use contract::events::{Event, EventId, EventStatus, SortBy, SortOrder};
use contract::page::{decode_cursor, encode_cursor};
use serde::{Deserialize, Serialize};

/// The last event of a page, by the columns the page is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    #[serde(rename = "s")]
    sort_by: SortBy,
    #[serde(rename = "o")]
    sort_order: SortOrder,
    /// The event's value of the sort column.
    #[serde(rename = "v")]
    pub value: SortValue,
    /// The event's id.
    #[serde(rename = "i")]
    pub id: EventId,
}

/// A value of a sort column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SortValue {
    /// A time.
    #[serde(with = "unix_millis")]
    Time(Timestamp),
    /// A title or status.
    Text(String),
}

impl Cursor {
    /// The cursor that continues after `event`.
    pub fn after(event: &Event, sort_by: SortBy, sort_order: SortOrder) -> Self {
        let value = match sort_by {
            SortBy::CreatedAt => SortValue::Time(event.created_at),
            SortBy::StartDate => SortValue::Time(event.start_date),
            SortBy::Title => SortValue::Text(event.title.clone()),
            SortBy::Status => SortValue::Text(event.status.as_str().to_owned()),
        };
        Self { sort_by, sort_order, value, id: event.id }
    }

    /// The cursor as clients carry it.
    pub fn encode(&self) -> String {
        encode_cursor(self)
    }

    /// Reads a cursor of this sort; `None` when it is damaged, made up, or of another sort.
    pub fn decode(text: &str, sort_by: SortBy, sort_order: SortOrder) -> Option<Self> {
        let cursor: Self = decode_cursor(text)?;
        let fits = match (&cursor.value, sort_by) {
            (SortValue::Time(_), SortBy::CreatedAt | SortBy::StartDate) => true,
            (SortValue::Text(title), SortBy::Title) => title.chars().count() <= 200,
            (SortValue::Text(status), SortBy::Status) => status.parse::<EventStatus>().is_ok(),
            _ => false,
        };
        (fits && cursor.sort_by == sort_by && cursor.sort_order == sort_order).then_some(cursor)
    }
}

/// Times in a cursor are Unix milliseconds: shorter than text, and not for people to read.
mod unix_millis {
    use contract::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(time.unix_millis())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let millis = i64::deserialize(deserializer)?;
        Timestamp::from_unix_millis(millis).ok_or_else(|| de::Error::custom("a time out of range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    proptest! {
        #[test]
        fn cursors_survive_and_keep_to_their_sort(
            millis in -1_000_000_000_000_i64..200_000_000_000_000,
            id: u128,
        ) {
            let time = Timestamp::from_unix_millis(millis).unwrap();
            let cursor = Cursor {
                sort_by: SortBy::StartDate,
                sort_order: SortOrder::Desc,
                value: SortValue::Time(time),
                id: EventId(Uuid::from_u128(id)),
            };
            let text = cursor.encode();
            let read = Cursor::decode(&text, SortBy::StartDate, SortOrder::Desc);
            prop_assert_eq!(read, Some(cursor));
            prop_assert_eq!(Cursor::decode(&text, SortBy::CreatedAt, SortOrder::Desc), None);
            prop_assert_eq!(Cursor::decode(&text, SortBy::StartDate, SortOrder::Asc), None);
        }

        #[test]
        fn times_beyond_the_calendar_are_refused(millis in 253_402_300_800_000_i64..) {
            let text = format!(r#"{{"s":"createdAt","o":"asc","v":{millis},"i":"{}"}}"#, Uuid::nil());
            let cursor = encode_cursor(&serde_json::from_str::<serde_json::Value>(&text).unwrap());
            prop_assert_eq!(Cursor::decode(&cursor, SortBy::CreatedAt, SortOrder::Asc), None);
        }

        #[test]
        fn made_up_cursors_are_refused(text in "\\PC{0,80}|[A-Za-z0-9_-]{0,200}") {
            prop_assert_eq!(Cursor::decode(&text, SortBy::Title, SortOrder::Asc), None);
        }
    }
}
