//! Tests of what a schema refuses.

use super::*;
use crate::auth::{InviteRequest, LoginRequest, SignupRequest};
use crate::events::{CreateRequest, ListRequest, UpdateRequest};

/// Every violation as `pointer code`, sorted.
fn broken<T: Request>(body: Value) -> Vec<String> {
    let found = RequestDecoder::<T>::new().violations(&body);
    let mut found: Vec<String> =
        found.into_iter().map(|one| format!("{} {}", one.pointer, one.code)).collect();
    found.sort();
    found
}

#[test]
fn every_violation_is_named_once() {
    let body =
        json!({ "title": "x", "description": 4, "location": "a\u{0}", "startDate": "x", "nope": 1, "~/": 2 });
    let expected = [
        "#/description wrong_type",
        "#/endDate required",
        "#/location wrong_format",
        "#/nope unknown_field",
        "#/startDate wrong_format",
        "#/title too_short",
        "#/~0~1 unknown_field",
    ];
    assert_eq!(broken::<CreateRequest>(body), expected);
    assert_eq!(broken::<CreateRequest>(json!([1])), ["# wrong_type"]);
}

#[test]
fn rules_between_fields_are_reported_with_the_rest() {
    let body = json!({ "title": "x", "description": "Test", "startDate": "2026-01-02T00:00:00Z", "endDate": "2026-01-02T01:00:00+01:00" });
    assert_eq!(broken::<CreateRequest>(body), ["#/endDate not_after_start", "#/title too_short"]);
    let signup = json!({ "email": "a@b.com", "password": "12345678", "firstName": "A", "lastName": "B" });
    assert_eq!(broken::<SignupRequest>(signup), ["#/organizationName required"]);
}

#[test]
fn what_may_be_absent_may_not_be_null_unless_it_says_so() {
    let update = |body| broken::<UpdateRequest>(body);
    assert_eq!(update(json!({ "id": "x" })), [""; 0]);
    assert_eq!(update(json!({ "id": "x", "location": null })), [""; 0]);
    assert_eq!(update(json!({ "id": "x", "title": null })), ["#/title wrong_type"]);
    assert_eq!(update(json!({ "id": "x", "endDate": null })), ["#/endDate wrong_type"]);
}

#[test]
fn names_and_numbers_of_closed_lists_are_checked() {
    let list = |body| broken::<ListRequest>(body);
    assert_eq!(
        list(json!({ "status": "DRAFT", "sortBy": "title", "sortOrder": "desc", "limit": 100 })),
        [""; 0]
    );
    let body = json!({ "status": "OPEN", "sortBy": "id", "sortOrder": "up", "limit": 101, "page": 0 });
    let expected = [
        "#/limit too_large",
        "#/page too_small",
        "#/sortBy unknown_value",
        "#/sortOrder unknown_value",
        "#/status unknown_value",
    ];
    assert_eq!(list(body), expected);
    assert_eq!(list(json!({ "limit": "ten" })), ["#/limit wrong_type"]);
    assert_eq!(list(json!({ "page": 200, "limit": 100 })), ["#/page too_deep"]);
    assert_eq!(list(json!({ "page": 1, "cursor": "x" })), ["#/page conflict"]);
    let invite = json!({ "email": "nobody", "role": "ROOT" });
    assert_eq!(broken::<InviteRequest>(invite), ["#/email wrong_format", "#/role unknown_value"]);
}

#[test]
fn refused_values_are_never_quoted() {
    let body = json!({ "email": "secret-address", "password": "p".repeat(129) });
    let found = RequestDecoder::<LoginRequest>::new().violations(&body);
    let shown = serde_json::to_string(&found).unwrap();
    assert_eq!(found.len(), 2, "{shown}");
    assert!(!shown.contains("secret-address") && !shown.contains("ppp"), "{shown}");
}

#[test]
fn long_lists_of_violations_end() {
    let body: Map<String, Value> = (0..5000).map(|number| (number.to_string(), Value::Null)).collect();
    assert_eq!(broken::<CreateRequest>(Value::Object(body)).len(), MAX_VIOLATIONS);
}
