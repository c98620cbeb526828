//! Metrics: recorded through OpenTelemetry's API, fetched by Prometheus from the admin port.
//!
//! Labels are subjects, route templates, statuses and closed sets of words. What clients send, and ids, are not
//! among them.

use std::sync::{LazyLock, OnceLock};

use opentelemetry::global;
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
pub use prometheus::TEXT_FORMAT;
use prometheus::{Registry, TextEncoder};

use crate::{Settings, resource};

/// Bounds of durations, in seconds: those of the HTTP conventions, and two below for what takes less.
const DURATIONS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What is fetched from the admin port: one set per process, as the API that fills it.
static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Where every instrument of ours comes from. Taken before the process has begun to collect, it stays silent.
pub fn meter() -> &'static Meter {
    static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("eventboard"));
    &METER
}

/// A histogram of durations in seconds.
pub fn durations(name: &'static str, description: &'static str) -> Histogram<f64> {
    let histogram = meter().f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(DURATIONS.to_vec()).build()
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The exporter refuses its own defaults.
    #[error(transparent)]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// A collector that is configured in a way that cannot be understood.
    #[error(transparent)]
    Collector(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Begins to collect, if there is an exporter. Before, and in a process that never calls it, metrics cost and
/// show nothing.
pub(crate) fn start(
    services: &[&'static str],
    settings: &Settings,
) -> Result<Option<SdkMeterProvider>, StartError> {
    if !settings.prometheus && !settings.pushed_metrics {
        return Ok(None);
    }
    // One set per process: of several services, it is the system's.
    let name = if let [only] = services { only } else { "eventboard" };
    let mut provider = SdkMeterProvider::builder().with_resource(resource(name));
    if settings.prometheus {
        let registry = Registry::new();
        provider = provider.with_reader(
            opentelemetry_prometheus::exporter()
                .without_target_info()
                .with_registry(registry.clone())
                .build()?,
        );
        // The first one stays: it is the one that is filled.
        let _ = REGISTRY.set(registry);
    }
    if settings.pushed_metrics {
        let exporter = opentelemetry_otlp::MetricExporter::builder();
        let exporter = exporter.with_http().with_protocol(Protocol::HttpBinary).build()?;
        provider = provider.with_reader(PeriodicReader::builder(exporter).build());
    }
    let provider = provider.build();
    global::set_meter_provider(provider.clone());
    if let Err(error) = opentelemetry_instrumentation_process::init() {
        tracing::warn!(%error, "there will be no figures of the process");
    }
    if tokio::runtime::Handle::try_current().is_ok() {
        opentelemetry_instrumentation_tokio::Config::new().observe_current_runtime();
    }
    Ok(Some(provider))
}

/// Everything that was collected, in [`TEXT_FORMAT`].
///
/// # Errors
/// What Prometheus cannot write.
pub fn page() -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&REGISTRY.get().map(Registry::gather).unwrap_or_default())
}
