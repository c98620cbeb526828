//! CORS: which origins may call from a browser, and what they may send and see.

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::config::CorsOrigins;
use crate::headers;

/// CORS for these origins. Tokens travel in a header, never in cookies, so no credentials are allowed.
pub(crate) fn cors(origins: &CorsOrigins) -> CorsLayer {
    let origins = match origins {
        CorsOrigins::Any => AllowOrigin::from(Any),
        // An origin is ASCII: each is a header's value.
        CorsOrigins::Listed(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            headers::CORRELATION_ID,
            headers::IDEMPOTENCY_KEY,
            headers::PREFER,
            // A front end that is traced sends these with every request.
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            HeaderName::from_static("baggage"),
        ])
        .expose_headers([
            headers::CORRELATION_ID,
            header::ETAG,
            header::LOCATION,
            header::LINK,
            header::RETRY_AFTER,
            headers::IDEMPOTENT_REPLAYED,
            headers::ORIGINAL_CORRELATION_ID,
            headers::PREFERENCE_APPLIED,
            headers::RATE_LIMIT,
            headers::RATE_LIMIT_POLICY,
        ])
        .max_age(std::time::Duration::from_secs(600))
}
