//! Checks request bodies against the very schema the documents publish, and names every violation.

use std::marker::PhantomData;

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::auth::Email;
use super::events::EventId;
use super::text::{breaks_line, is_unwanted, normalized, visible_len};
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
        Self { name: T::name().into_owned(), schema: <T as PartialSchema>::schema(), references }
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
    ("date-time", |text| Timestamp::parse(text).is_some(), "must be an RFC 3339 date-time with an offset"),
    ("email", |text| Email::parse(text).is_some(), "must be an e-mail address"),
    (
        "text-line",
        |text| !text.chars().any(|character| is_unwanted(character) || breaks_line(character)),
        "must not contain control characters or line breaks",
    ),
    (
        "text-block",
        |text| !text.chars().any(|character| is_unwanted(character) && !matches!(character, '\n' | '\t')),
        "must not contain control characters except line feed and tab",
    ),
];

/// A member whose value can be written in several ways, of which one is canonical.
#[derive(Debug)]
struct Field {
    name: String,
    form: Form,
}

/// What a member holds.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Text for people, of at least this many characters that can be seen.
    Text(usize),
    /// A point in time.
    Time,
    /// An e-mail address.
    Email,
    /// The id of an object.
    Id,
}

impl Field {
    /// The member `name` with this schema, whose references are in `components`.
    fn of(name: &str, schema: &Value, components: &Value) -> Option<Self> {
        let referred = schema["$ref"].as_str().and_then(|path| components.get(path.rsplit('/').next()?));
        let alternatives = schema["oneOf"].as_array().into_iter().flatten();
        let format = schema["format"].as_str();
        let form = match format {
            Some("text-line" | "text-block") => {
                let least = schema["minLength"].as_u64().unwrap_or(0);
                Some(Form::Text(usize::try_from(least).unwrap_or(usize::MAX)))
            }
            Some("date-time") => Some(Form::Time),
            Some("email") => Some(Form::Email),
            None if name == "id" => Some(Form::Id),
            _ => None,
        };
        let own = form.map(|form| Self { name: name.to_owned(), form });
        own.or_else(|| referred.and_then(|schema| Self::of(name, schema, components)))
            .or_else(|| alternatives.filter_map(|schema| Self::of(name, schema, components)).next())
    }

    /// The canonical way to write `text`, if that is another one. What breaks a rule stays as it is.
    fn canonical(&self, text: &str) -> Option<String> {
        let canonical = match self.form {
            Form::Text(_) => normalized(text).into_owned(),
            Form::Time => Timestamp::parse(text)?.to_string(),
            Form::Email => Email::parse(text)?.as_str().to_owned(),
            Form::Id => EventId::parse(text)?.to_string(),
        };
        (canonical != text).then_some(canonical)
    }
}

/// Reads requests of one type. Built once per operation: compiling a schema is slow, checking fast.
#[derive(Debug)]
pub struct RequestDecoder<T> {
    validator: Validator,
    integers: Vec<String>,
    fields: Vec<Field>,
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
                properties.iter().filter(|(_, schema)| integer(schema)).map(|(name, _)| name.clone())
            })
            .into_iter()
            .flatten()
            .collect();
        let properties = document["properties"].as_object().into_iter().flatten();
        let components = &document["components"]["schemas"];
        let fields = properties.filter_map(|(name, schema)| Field::of(name, schema, components)).collect();
        let mut options = jsonschema::options().should_validate_formats(true);
        for (name, check, _) in FORMATS {
            options = options.with_format(name, check);
        }
        let validator = options.build(&document).expect("the derived schema is valid JSON Schema");
        Self { validator, integers, fields, marker: PhantomData }
    }

    /// Whether the member `name` is a number, which a query string can only spell as text.
    pub fn is_integer(&self, name: &str) -> bool {
        self.integers.iter().any(|integer| integer == name)
    }

    /// Writes what can be written in several ways in the canonical one: text in NFC, times in UTC, addresses and ids in
    /// lower case. Whatever compares requests, keys of writes included, compares these.
    pub fn normalize(&self, body: &mut Value) {
        for field in &self.fields {
            if let Some(Value::String(text)) = body.get_mut(&field.name)
                && let Some(canonical) = field.canonical(text)
            {
                *text = canonical;
            }
        }
    }

    /// Every rule `body` breaks, up to [`MAX_VIOLATIONS`].
    pub fn violations(&self, body: &Value) -> Vec<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        for error in self.validator.iter_errors(body) {
            describe(error.kind(), &format!("#{}", error.instance_path().as_str()), &mut found);
        }
        if let Value::Object(members) = body {
            found.extend(
                self.hardly_visible(members)
                    .filter(|violation| !found.contains(violation))
                    .collect::<Vec<_>>(),
            );
            found.extend(T::rules(members));
        }
        found.truncate(MAX_VIOLATIONS);
        found
    }

    /// Texts with fewer characters that can be seen than they must have characters.
    fn hardly_visible<'a>(&'a self, members: &'a Map<String, Value>) -> impl Iterator<Item = Violation> + 'a {
        self.fields.iter().filter_map(|field| match (field.form, members.get(&field.name)) {
            (Form::Text(least), Some(Value::String(text))) if visible_len(text) < least => {
                Some(Violation::at(&field.name, "too_short", too_short(least as u64)))
            }
            _ => None,
        })
    }

    /// Reads a message: syntax, then every rule, then the request, as JSON and typed. No payload counts as
    /// `{}`.
    ///
    /// # Errors
    /// [`ProblemType::MalformedRequest`] for JSON syntax, [`ProblemType::ValidationFailed`] with every
    /// violation otherwise.
    pub fn decode(&self, payload: &[u8]) -> Result<(Value, T), Problem> {
        let mut body = parse_body(payload)?;
        self.normalize(&mut body);
        let violations = self.violations(&body);
        if !violations.is_empty() {
            return Err(Problem::invalid(violations));
        }
        // The schema is derived from `T`; should serde be stricter somewhere, the client hears of it.
        let request = T::deserialize(&body).map_err(|_| {
            Problem::new(ProblemType::ValidationFailed, "the request does not fit the operation's schema")
        })?;
        Ok((body, request))
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
        Problem::new(ProblemType::MalformedRequest, format!("the body is not JSON: {error}"))
    })
}

fn too_short(least: u64) -> String {
    format!("must have at least {least} characters that can be seen")
}

/// Turns one schema error into violations: a stable code, and the rule without the refused value.
fn describe(kind: &ValidationErrorKind, path: &str, found: &mut Vec<Violation>) {
    let mut push = |pointer: String, code: &str, detail: String| {
        found.push(Violation { pointer, code: code.to_owned(), detail });
    };
    let here = path.to_owned();
    let child = |name: &str| format!("{path}{}", &Violation::at(name, "", "").pointer[1..]);
    match kind {
        ValidationErrorKind::Required { property } => {
            push(child(property.as_str().unwrap_or_default()), "required", "is required".to_owned());
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                push(child(name), "unknown_field", "is not a known field".to_owned());
            }
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(several) => {
                    several.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" or ")
                }
            };
            push(here, "wrong_type", format!("must be of type {expected}"));
        }
        ValidationErrorKind::MinLength { limit } => {
            push(here, "too_short", too_short(*limit));
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
            let names: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            push(here, "unknown_value", format!("must be one of {}", names.join(", ")));
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
        other => push(here, other.keyword(), format!("breaks the rule `{}`", other.keyword())),
    }
}

#[cfg(test)]
mod tests;
