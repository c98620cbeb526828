//! Metrics: recorded through OpenTelemetry's API, fetched by Prometheus from the admin port.

use std::sync::OnceLock;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

/// What is fetched from the admin port: one set per process, as the API that fills it.
static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Begins to collect. Before, and in a process that never calls it, metrics cost and show nothing.
///
/// # Errors
/// When the exporter refuses its own defaults.
pub fn init() -> Result<(), opentelemetry_sdk::error::OTelSdkError> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()?;
    opentelemetry::global::set_meter_provider(SdkMeterProvider::builder().with_reader(exporter).build());
    // The first one stays: it is the one that is filled.
    let _ = REGISTRY.set(registry);
    Ok(())
}

/// `GET /metrics`.
pub(crate) fn page() -> Response {
    let families = REGISTRY.get().map(Registry::gather).unwrap_or_default();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
