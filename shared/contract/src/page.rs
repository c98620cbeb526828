//! Pages that are followed by cursor: where one stands, and how many items fit into a reply.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Violation;

/// Where a page stands among the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CursorMeta {
    /// Items a page, at most.
    pub limit: i64,
    /// Whether a page follows this one.
    pub has_next: bool,
    /// Continues after this page, while one follows.
    pub next_cursor: Option<String>,
}

/// Bytes of a page beside its items.
const ENVELOPE: usize = 1024;

/// An item of a page.
pub trait Item: Serialize {
    /// The most bytes one can have as JSON.
    const LARGEST: usize;
}

/// Removes from the end what does not fit into a reply of `room` bytes, and says whether anything had to go. The
/// first item always stays, so that who follows the pages gets on.
pub fn fit<T: Item>(items: &mut Vec<T>, room: usize) -> bool {
    let room = room.saturating_sub(ENVELOPE);
    if items.len().saturating_mul(T::LARGEST) <= room {
        return false;
    }
    let mut used = 0;
    let fits = |item: &T| {
        // Texts and numbers only: serialisation into memory has no way to fail.
        used += serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
        used <= room
    };
    let fitting = items.iter().map(fits).take_while(|fits| *fits).count().max(1);
    let shrinks = fitting < items.len();
    items.truncate(fitting);
    shrinks
}

/// A page out of up to `limit + 1` items, of which the last only shows that more follow, in a reply of `room`
/// bytes. `cursor` names an item.
pub fn page<T: Item>(
    mut items: Vec<T>,
    limit: i64,
    room: usize,
    cursor: impl FnOnce(&T) -> String,
) -> (Vec<T>, CursorMeta) {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let follows = items.len() > wanted;
    items.truncate(wanted);
    let has_next = fit(&mut items, room) || follows;
    let next_cursor = items.last().filter(|_| has_next).map(cursor);
    (items, CursorMeta { limit, has_next, next_cursor })
}

/// A cursor as clients carry it.
pub fn encode_cursor(position: &impl Serialize) -> String {
    // Numbers and strings only: serialisation into memory has no way to fail.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(position).unwrap_or_default())
}

/// Reads a cursor; `None` when it is damaged or made up.
pub fn decode_cursor<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// A cursor that is none of this list.
pub(super) fn invalid_cursor() -> Violation {
    Violation::at("cursor", "invalid", "is not a cursor of this list; take meta.nextCursor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Text(String);

    impl Item for Text {
        const LARGEST: usize = 102;
    }

    #[test]
    fn pages_shrink_to_what_a_reply_carries_and_lead_on() {
        let items = |count| (0..count).map(|_| Text("x".repeat(100))).collect::<Vec<_>>();
        let cursor = |_: &Text| "next".to_owned();
        let seen = |count, limit, room| {
            let (items, meta) = page(items(count), limit, room, cursor);
            assert_eq!(meta.has_next, meta.next_cursor.is_some());
            (items.len(), meta.has_next)
        };
        assert_eq!(seen(5, 10, 100_000), (5, false));
        assert_eq!(seen(11, 10, 100_000), (10, true));
        assert_eq!(seen(10, 10, ENVELOPE + 310), (3, true));
        assert_eq!(seen(10, 10, 0), (1, true), "one is always given");
        assert_eq!(seen(0, 10, 0), (0, false));
    }

    #[test]
    fn cursors_are_read_or_refused() {
        assert_eq!(decode_cursor(&encode_cursor(&(5_i64, "x"))), Some((5_i64, "x".to_owned())));
        for bad in ["", "!", "eyJ9", &encode_cursor(&"text")] {
            assert_eq!(decode_cursor::<i64>(bad), None, "{bad}");
        }
    }
}
