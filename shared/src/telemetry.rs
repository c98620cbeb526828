//! What a process says about itself: log lines, traces and metrics, and where each goes.

mod export;
mod lines;
mod noise;
mod output;
mod settings;
pub mod span;

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::metrics;
pub(crate) use export::resource;
use lines::Lines;
use output::Output;
use settings::Propagators;
pub(crate) use settings::Settings;

/// How long the last spans and metrics may take to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Read once: a process does not change its environment.
static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings::read(|name| std::env::var(name).ok()));

/// What must be sent before the process ends.
#[derive(Debug)]
#[must_use = "what was not sent yet is lost unless it is flushed"]
pub struct Telemetry {
    tracers: SdkTracerProvider,
    meters: Option<SdkMeterProvider>,
    output: Option<Output>,
}

impl Telemetry {
    /// Starts it for a process that is these services, as the `OTEL_*` variables and `RUST_LOG` say. Nothing of it
    /// can keep the process from its work: what cannot be had is said in the log, and gone without.
    pub fn start(services: &[&'static str]) -> Self {
        let settings = &*SETTINGS;
        let (tracers, failed) = match export::tracer_provider(services, settings.traces) {
            Ok(tracers) => (tracers, None),
            Err(error) => (SdkTracerProvider::builder().build(), Some(error)),
        };
        span::made_by(&tracers);
        // Without a thread for them there are no log lines, and nobody to say so to.
        let output = settings.lines.then(Output::start).and_then(Result::ok);
        // Fails when a subscriber is set already, as in a test: then that one stays.
        let _ = tracing_subscriber::registry().with(Lines::new(output.clone())).try_init();
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("a panic without a message");
            let location = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(location, "panicked: {message}");
        }));
        for complaint in &settings.complaints {
            tracing::warn!("{complaint}");
        }
        if let Some(error) = failed {
            tracing::error!(%error, "there will be no traces");
        }
        let meters = metrics::start(services, settings).unwrap_or_else(|error| {
            tracing::error!(%error, "there will be no metrics");
            None
        });
        if let Some(output) = &output {
            output.observe();
        }
        Self { tracers, meters, output }
    }

    /// Sends what was not sent yet, for some seconds at most.
    pub async fn finish(self) {
        let Self { tracers, meters, output } = self;
        let spans = flush(move || tracers.shutdown_with_timeout(FLUSH_TIMEOUT));
        let figures =
            flush(move || meters.map_or(Ok(()), |meters| meters.shutdown_with_timeout(FLUSH_TIMEOUT)));
        let both = async { tokio::join!(spans, figures) };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, both).await;
        if let Some(output) = output {
            output.flush().await;
        }
    }
}

/// Waits for what blocks, on a thread that nobody else waits for: the runtime would, at its end, beyond any limit.
async fn flush(shut_down: impl FnOnce() -> OTelSdkResult + Send + 'static) {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // What fails is said by the exporters themselves.
        let _ = ended.send(shut_down());
    });
    let _ = end.await;
}

/// Which contexts travel with messages.
fn propagators() -> Propagators {
    SETTINGS.propagators
}
