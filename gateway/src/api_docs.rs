//! The documents about the API, generated from the contract: OpenAPI, AsyncAPI, and a page to read them.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::get;
use contract::problem::{PROBLEM_JSON, ProblemBody};
use contract::schema::NamedSchema;
use contract::{Access, Description, Method, ProblemType, descriptions, events};
use serde_json::{Map, Value, json};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// The page needs its own scripts and styles, and nothing from any other host.
const DOCS_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// Problems that every operation may answer with.
const SHARED_PROBLEMS: [ProblemType; 13] = [
    ProblemType::MalformedRequest,
    ProblemType::NotAcceptable,
    ProblemType::UriTooLong,
    ProblemType::ValidationFailed,
    ProblemType::RateLimited,
    ProblemType::Internal,
    ProblemType::ReplyTooLarge,
    ProblemType::MalformedReply,
    ProblemType::Unavailable,
    ProblemType::Overloaded,
    ProblemType::Contended,
    ProblemType::DeadlineExceeded,
    ProblemType::ConnectionLost,
];

/// `/openapi.json`, `/asyncapi.json` and `/docs`.
pub(crate) fn routes() -> Router {
    let document = |document: Value| {
        let text = document.to_string();
        get(move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], text.clone())))
    };
    let policy = SetResponseHeaderLayer::if_not_present(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static(DOCS_POLICY),
    );
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    Router::new()
        .merge(Router::from(page).layer(policy))
        .route("/openapi.json", document(openapi()))
        .route("/asyncapi.json", document(asyncapi()))
}

/// OpenAPI 3.1.
fn openapi() -> Value {
    let mut components = Map::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    register(&mut components, &NamedSchema::of::<ProblemBody>());
    for operation in descriptions() {
        let method = operation.route.method.as_str().to_ascii_lowercase();
        let described = describe(&operation, &mut components);
        paths.entry(operation.route.path).or_default().insert(method, described);
    }
    for (path, described) in surroundings() {
        paths.entry(path).or_default().insert("get".to_owned(), described);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "EventBoard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Organisations publish events after moderation. Every failure is application/problem+json \
                (RFC 9457); every response carries X-Correlation-ID.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    })
}

/// What is served beside the operations.
fn surroundings() -> [(&'static str, Value); 4] {
    let answer = |description: &str, media_type: &str| json!({ "description": description, "content": { media_type: { "schema": { "type": "object" } } } });
    let json = |description: &str| answer(description, "application/json");
    let page = |id: &str, summary: &str, responses: Value| json!({ "operationId": id, "summary": summary, "tags": ["system"], "security": [], "responses": responses });
    [
        (
            "/.well-known/jwks.json",
            page(
                "system.jwks",
                "Read the public keys that verify access tokens",
                json!({
                    "200": answer("A JWK set (RFC 7517)", "application/jwk-set+json"),
                    "304": { "description": "The set is the one that If-None-Match names" },
                    "503": answer("No key is known yet", PROBLEM_JSON),
                }),
            ),
        ),
        ("/livez", page("system.livez", "Whether the process runs", json!({ "200": json("It does") }))),
        (
            "/readyz",
            page(
                "system.readyz",
                "Whether requests should be sent here",
                json!({ "200": json("They should"), "503": json("Not now: checks say why") }),
            ),
        ),
        (
            "/health",
            page(
                "system.health",
                "What was last seen of everything the gateway depends on",
                json!({ "200": json("pass, or warn where a part is away"), "503": json("fail") }),
            ),
        ),
    ]
}

fn describe(operation: &Description, components: &mut Map<String, Value>) -> Value {
    let (service, verb) = (operation.subject.split('.').next().unwrap_or_default(), operation.verb());
    let mut schema = serde_json::to_value(&operation.request.schema).unwrap_or_default();
    let in_path = operation.route.path.contains("{id}");
    if in_path {
        drop_member(&mut schema, "id");
    }
    for (name, reference) in &operation.request.references {
        components.insert(name.clone(), serde_json::to_value(reference).unwrap_or_default());
    }
    let mut described = json!({
        "operationId": operation.subject,
        "summary": operation.summary,
        "description": format!("NATS subject `{}`.", operation.subject),
        "tags": [service],
        "parameters": parameters(operation, in_path, &schema),
        "responses": responses(operation, components),
    });
    if operation.access != Access::Public {
        described["security"] = json!([{ "bearer": [] }]);
    }
    let has_fields = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    if has_fields && matches!(operation.route.method, Method::Post | Method::Patch) {
        let name = if in_path { format!("{verb}-body") } else { operation.request.name.clone() };
        components.insert(name.clone(), schema);
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(&name) } },
        });
    }
    described
}

fn parameters(operation: &Description, in_path: bool, schema: &Value) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "description": description, "schema": text });
    let longest = operation.deadline.as_secs();
    let mut parameters = vec![
        header("X-Correlation-ID", "Kept when it matches [A-Za-z0-9._-]{1,128}, else replaced"),
        header("Prefer", &format!("wait=<seconds> (RFC 7240): answer by then; {longest} at most")),
    ];
    if in_path {
        let schema = json!({ "type": "string", "format": "uuid" });
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": schema }));
    }
    if operation.repeat.takes_key() {
        parameters.push(header("Idempotency-Key", "1 to 255 printable ASCII characters, bare or quoted. Who repeats the request with the same key, within 24 hours, is given the same answer, marked by Idempotent-Replayed: true"));
        if in_path && operation.service() == events::SERVICE.name {
            parameters.push(header("If-Match", "Fails with 412 unless the event still has this ETag"));
        }
    }
    if operation.route.method == Method::Get {
        // Of all that is read, only an event itself has an entity tag.
        if operation.response.as_ref().is_some_and(|response| response.name == "Event") {
            parameters.push(header("If-Match", "Answers 412 unless the event still has this ETag"));
            parameters.push(header("If-None-Match", "Answers 304 while the event still has this ETag"));
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            parameters.push(json!({
                "name": name,
                "in": "query",
                "description": schema["description"],
                "schema": schema,
            }));
        }
    }
    parameters
}

fn responses(operation: &Description, components: &mut Map<String, Value>) -> Value {
    let mut responses = Map::new();
    let mut success = json!({ "description": "Success" });
    if let Some(response) = &operation.response {
        register(components, response);
        success["content"] = json!({ "application/json": { "schema": reference(&response.name) } });
    }
    responses.insert(operation.status.to_string(), success);
    let body = matches!(operation.route.method, Method::Post | Method::Patch).then_some([
        ProblemType::RequestTimeout,
        ProblemType::PayloadTooLarge,
        ProblemType::UnsupportedMediaType,
    ]);
    let token = (operation.access != Access::Public).then_some(ProblemType::Unauthenticated);
    let mut by_status: BTreeMap<u16, Vec<ProblemType>> = BTreeMap::new();
    let keyed = operation.repeat.takes_key().then_some([ProblemType::KeyInProgress, ProblemType::KeyReused]);
    let problems = SHARED_PROBLEMS
        .into_iter()
        .chain(body.into_iter().flatten())
        .chain(token)
        .chain(keyed.into_iter().flatten());
    for problem in problems.chain(operation.problems.iter().copied()) {
        by_status.entry(problem.status()).or_default().push(problem);
    }
    for (status, mut problems) in by_status {
        problems.sort();
        problems.dedup();
        let titles: Vec<String> =
            problems.iter().map(|problem| format!("{} (`{}`)", problem.title(), problem.uri())).collect();
        responses.insert(
            status.to_string(),
            json!({
                "description": titles.join("; "),
                "content": { PROBLEM_JSON: { "schema": reference("Problem") } },
            }),
        );
    }
    Value::Object(responses)
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn register(components: &mut Map<String, Value>, schema: &NamedSchema) {
    for (name, schema) in schema.references.iter().chain([&(schema.name.clone(), schema.schema.clone())]) {
        components.insert(name.clone(), serde_json::to_value(schema).unwrap_or_default());
    }
}

/// The schema of an HTTP body: what stands in the path is no part of it.
fn drop_member(schema: &mut Value, name: &str) {
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.remove(name);
    }
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|required| required != name);
    }
}

/// AsyncAPI 3.0: the same operations as NATS request-reply messages.
fn asyncapi() -> Value {
    let mut schemas = Map::new();
    let mut channels = Map::new();
    let mut operations = Map::new();
    register(&mut schemas, &NamedSchema::of::<ProblemBody>());
    for operation in descriptions() {
        let key = operation.subject.replace('.', "_");
        register(&mut schemas, &operation.request);
        let reply = match &operation.response {
            Some(response) => {
                register(&mut schemas, response);
                reference(&response.name)
            }
            None => json!({ "type": "null" }),
        };
        channels.insert(
            key.clone(),
            json!({
                "address": operation.subject,
                "messages": {
                    "request": { "payload": reference(&operation.request.name) },
                    "reply": { "payload": { "oneOf": [reply, reference("Problem")] } },
                },
            }),
        );
        let message = |name: &str| json!({ "$ref": format!("#/channels/{key}/messages/{name}") });
        operations.insert(
            key.clone(),
            json!({
                "action": "receive",
                "summary": operation.summary,
                "channel": { "$ref": format!("#/channels/{key}") },
                "messages": [message("request")],
                "reply": {
                    "address": { "location": "$message.header#/reply" },
                    "channel": { "$ref": format!("#/channels/{key}") },
                    "messages": [message("reply")],
                },
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "EventBoard over NATS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Payloads are the JSON bodies of the HTTP API, with the path id as `id`. Metadata travels \
                in headers: Authorization, X-Correlation-ID, Idempotency-Key, If-Match, If-None-Match, traceparent, \
                tracestate, X-Attempt, X-Budget-Ms, X-Deadline-Ms, X-Client-Network. Replies carry X-Status, and \
                X-Next-Cursor where a page follows, or Nats-Service-Error-Code and X-Problem with a problem body.",
        },
        "servers": { "nats": { "host": "127.0.0.1:4222", "protocol": "nats" } },
        "channels": channels,
        "operations": operations,
        "components": { "schemas": schemas },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a document names something in it.
    fn assert_whole(document: &Value) {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(target)) = members.get("$ref") {
                        let pointer = target.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{target} names nothing");
                    }
                    members.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        walk(document, document);
    }

    #[test]
    fn both_documents_are_whole_and_name_every_operation() {
        let (openapi, asyncapi) = (openapi(), asyncapi());
        assert_whole(&openapi);
        assert_whole(&asyncapi);
        for operation in descriptions() {
            let method = operation.route.method.as_str().to_ascii_lowercase();
            assert_eq!(openapi["paths"][operation.route.path][&method]["operationId"], operation.subject);
            assert_eq!(
                asyncapi["channels"][operation.subject.replace('.', "_")]["address"],
                operation.subject
            );
        }
        let create = &openapi["components"]["schemas"]["CreateRequest"];
        assert_eq!(create["properties"]["title"]["minLength"], 3);
        assert_eq!(create["additionalProperties"], false);
        assert_eq!(create["required"], json!(["title", "description", "startDate", "endDate"]));
        let reject = &openapi["components"]["schemas"]["reject-body"];
        assert_eq!(reject["required"], json!(["reason"]));
    }

    #[test]
    fn subjects_and_routes_are_unique_and_well_formed() {
        let all = descriptions();
        let mut seen = std::collections::HashSet::new();
        for operation in &all {
            assert!(seen.insert(operation.subject.to_owned()), "{} twice", operation.subject);
            assert!(seen.insert(format!("{:?} {}", operation.route.method, operation.route.path)));
            assert!(operation.subject.starts_with("auth.") || operation.subject.starts_with("events."));
        }
    }
}
