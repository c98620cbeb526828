//! Checks request bodies against the very schema the documents publish, and names every violation.

use std::marker::PhantomData;

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::auth::Email;
use super::{Problem, ProblemType, Request, Timestamp, Violation, json};

/// A schema under its name, with the schemas it refers to.
#[derive(Debug, Clone)]
pub struct NamedSchema {
    /// The name under `components/schemas`.
    pub name: String,
    /// The schema itself.
    pub schema: RefOr<Schema>,
    /// The schemas it refers to, by name.
    pub references: Vec<(String, RefOr<Schema>)>,
}

impl NamedSchema {
    /// The schema of `T`.
    pub fn of<T: ToSchema>() -> Self {
        let mut references = Vec::new();
        T::schemas(&mut references);
        Self {
            name: T::name().into_owned(),
            schema: <T as PartialSchema>::schema(),
            references,
        }
    }

    /// This schema as a self-contained JSON Schema document.
    fn document(&self) -> Value {
        let mut document = serde_json::to_value(&self.schema).unwrap_or_default();
        let components: Map<String, Value> = self
            .references
            .iter()
            .map(|(name, schema)| (name.clone(), serde_json::to_value(schema).unwrap_or_default()))
            .collect();
        if let Value::Object(root) = &mut document {
            root.insert("components".to_owned(), json!({ "schemas": components }));
        }
        document
    }
}

/// No answer lists more: a body of ten thousand unknown fields must not become a larger reply.
pub const MAX_VIOLATIONS: usize = 100;

/// The string formats of the contract: name, check, and the rule for people.
type Format = (&'static str, fn(&str) -> bool, &'static str);

const FORMATS: [Format; 4] = [
    (
        "date-time",
        |text| Timestamp::parse(text).is_some(),
        "must be an RFC 3339 date-time with an offset",
    ),
    (
        "email",
        |text| Email::parse(text).is_some(),
        "must be an e-mail address",
    ),
    (
        "text-line",
        |text| !text.chars().any(is_unwanted),
        "must not contain control characters or line breaks",
    ),
    (
        "text-block",
        |text| {
            !text
                .chars()
                .any(|character| is_unwanted(character) && !matches!(character, '\n' | '\t'))
        },
        "must not contain control characters except line feed and tab",
    ),
];

/// Control characters, and the bidirectional overrides that make text read other than it is.
fn is_unwanted(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Reads requests of one type. Built once per operation: compiling a schema is slow, checking fast.
#[derive(Debug)]
pub struct RequestDecoder<T> {
    validator: Validator,
    integers: Vec<String>,
    marker: PhantomData<fn() -> T>,
}

impl<T: Request> RequestDecoder<T> {
    /// Compiles the schema of `T`.
    ///
    /// # Panics
    /// When a derived schema is no JSON Schema, which is a defect every test run would hit.
    #[expect(
        clippy::expect_used,
        reason = "a derived schema that is no schema is a defect found by any test"
    )]
    pub fn new() -> Self {
        let document = NamedSchema::of::<T>().document();
        let integer = |schema: &Value| match schema.get("type") {
            Some(Value::String(kind)) => kind == "integer",
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "integer"),
            _ => false,
        };
        let integers = document["properties"]
            .as_object()
            .map(|properties| {
                properties
                    .iter()
                    .filter(|(_, schema)| integer(schema))
                    .map(|(name, _)| name.clone())
            })
            .into_iter()
            .flatten()
            .collect();
        let mut options = jsonschema::options().should_validate_formats(true);
        for (name, check, _) in FORMATS {
            options = options.with_format(name, check);
        }
        let validator = options
            .build(&document)
            .expect("the derived schema is valid JSON Schema");
        Self {
            validator,
            integers,
            marker: PhantomData,
        }
    }

    /// Whether the member `name` is a number, which a query string can only spell as text.
    pub fn is_integer(&self, name: &str) -> bool {
        self.integers.iter().any(|integer| integer == name)
    }

    /// Every rule `body` breaks, up to [`MAX_VIOLATIONS`].
    pub fn violations(&self, body: &Value) -> Vec<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        for error in self.validator.iter_errors(body) {
            describe(
                error.kind(),
                &format!("#{}", error.instance_path().as_str()),
                &mut found,
            );
        }
        if let Value::Object(members) = body {
            found.extend(T::rules(members));
        }
        found.truncate(MAX_VIOLATIONS);
        found
    }

    /// Reads a message: syntax, then every rule, then the typed request. No payload counts as `{}`.
    ///
    /// # Errors
    /// [`ProblemType::MalformedRequest`] for JSON syntax, [`ProblemType::ValidationFailed`] with every
    /// violation otherwise.
    pub fn decode(&self, payload: &[u8]) -> Result<T, Problem> {
        let body = parse_body(payload)?;
        let violations = self.violations(&body);
        if !violations.is_empty() {
            return Err(Problem::invalid(violations));
        }
        // The schema is derived from `T`; should serde be stricter somewhere, the client hears of it.
        serde_json::from_value(body).map_err(|_| {
            Problem::new(
                ProblemType::ValidationFailed,
                "the request does not fit the operation's schema",
            )
        })
    }
}

impl<T: Request> Default for RequestDecoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Parses a body or payload; an empty one counts as `{}`.
///
/// # Errors
/// [`ProblemType::MalformedRequest`] naming line and column.
pub fn parse_body(payload: &[u8]) -> Result<Value, Problem> {
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    json::parse(payload).map_err(|error| {
        Problem::new(
            ProblemType::MalformedRequest,
            format!("the body is not JSON: {error}"),
        )
    })
}

/// Turns one schema error into violations: a stable code, and the rule without the refused value.
fn describe(kind: &ValidationErrorKind, path: &str, found: &mut Vec<Violation>) {
    let mut push = |pointer: String, code: &str, detail: String| {
        found.push(Violation {
            pointer,
            code: code.to_owned(),
            detail,
        });
    };
    let here = path.to_owned();
    let child = |name: &str| format!("{path}{}", &Violation::at(name, "", "").pointer[1..]);
    match kind {
        ValidationErrorKind::Required { property } => {
            push(
                child(property.as_str().unwrap_or_default()),
                "required",
                "is required".to_owned(),
            );
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                push(child(name), "unknown_field", "is not a known field".to_owned());
            }
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(several) => several
                    .iter()
                    .map(|one| one.to_string())
                    .collect::<Vec<_>>()
                    .join(" or "),
            };
            push(here, "wrong_type", format!("must be of type {expected}"));
        }
        ValidationErrorKind::MinLength { limit } => {
            push(
                here,
                "too_short",
                format!("must have at least {limit} characters"),
            );
        }
        ValidationErrorKind::MaxLength { limit } => {
            push(here, "too_long", format!("must have at most {limit} characters"));
        }
        ValidationErrorKind::Minimum { limit } => {
            push(here, "too_small", format!("must be at least {limit}"))
        }
        ValidationErrorKind::Maximum { limit } => push(here, "too_large", format!("must be at most {limit}")),
        ValidationErrorKind::Format { format } => {
            let rule = FORMATS
                .iter()
                .find(|(name, ..)| name == format)
                .map_or("has the wrong format", |(.., rule)| rule);
            push(here, "wrong_format", rule.to_owned());
        }
        ValidationErrorKind::Enum { options } => {
            let names: Vec<&str> = options
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            push(
                here,
                "unknown_value",
                format!("must be one of {}", names.join(", ")),
            );
        }
        // A nullable or referenced member: what matters is why its one real alternative failed.
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            match context
                .iter()
                .flatten()
                .find(|error| !matches!(error.kind(), ValidationErrorKind::Type { .. }))
            {
                Some(error) => describe(error.kind(), path, found),
                None => push(here, "wrong_type", "is of the wrong type".to_owned()),
            }
        }
        other => push(
            here,
            other.keyword(),
            format!("breaks the rule `{}`", other.keyword()),
        ),
    }
}
