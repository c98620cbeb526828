//! What a process says about itself: log lines, traces and metrics, and where each goes.

mod export;
pub mod health;
mod log_format;
mod log_throttle;
pub mod metrics;
mod output;
mod settings;
pub mod span;

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use export::Tracers;
pub(crate) use export::resource;
use log_format::LogLayer;
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
    tracers: Vec<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
    output: Option<Output>,
}

impl Telemetry {
    /// Starts it for a process that is these services, as the `OTEL_*` variables and `RUST_LOG` say. Nothing of it
    /// can keep the process from its work: what cannot be had is said in the log, and gone without.
    pub fn start(services: &[&'static str]) -> Self {
        let settings = &*SETTINGS;
        let (tracers, failed) = match export::tracers(services, settings.traces) {
            Ok(tracers) => (tracers, None),
            Err(error) => (export::unsent(), Some(error)),
        };
        // Without a thread for them there are no log lines, and no way to report that.
        let output = settings.lines.then(Output::start).and_then(Result::ok);
        // Fails when a subscriber is set already, as in a test: then that one stays.
        let _ = subscriber(tracers.clone(), LogLayer::new(services, output.clone())).try_init();
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
        Self { tracers: tracers.providers(), meters, output }
    }

    /// Sends what was not sent yet, for some seconds at most.
    pub async fn finish(self) {
        let Self { tracers, meters, output } = self;
        let shut_down =
            |tracers: SdkTracerProvider| flush(move || tracers.shutdown_with_timeout(FLUSH_TIMEOUT));
        let spans = join_all(tracers.into_iter().map(shut_down));
        let figures =
            flush(move || meters.map_or(Ok(()), |meters| meters.shutdown_with_timeout(FLUSH_TIMEOUT)));
        let both = async { tokio::join!(spans, figures) };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, both).await;
        if let Some(output) = output {
            output.flush().await;
        }
    }
}

/// What becomes of spans and events: spans are made by `tracers`, and `lines` decides.
fn subscriber(tracers: Tracers, lines: LogLayer) -> impl Subscriber {
    let bridge = tracing_opentelemetry::layer()
        .with_tracer(tracers)
        // Each is looked for whenever a span is entered.
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false);
    tracing_subscriber::registry().with(bridge).with(lines)
}

/// Waits for what blocks, on a thread of its own: the runtime would, at its end, beyond any limit.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use contract::CorrelationId;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};
    use tracing::Instrument;

    /// Makes spans on this thread that have ids and nothing else, until what it returns is dropped.
    pub(crate) fn start_unsent() -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(subscriber(export::unsent(), LogLayer::new(&[], None)))
    }

    /// Keeps what a collector would be sent.
    #[derive(Debug, Clone, Default)]
    struct Recorded(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Recorded {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[tracing::instrument(fields(weight = 3))]
    async fn weigh(title: &str) -> usize {
        tracing::warn!("too heavy");
        title.len()
    }

    #[tokio::test]
    async fn an_instrumented_function_is_a_span_below_the_request_it_is_called_for() {
        let recorded = Recorded::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(recorded.clone()).build();
        let tracers = Tracers::of(vec![("events-worker", provider)]);
        let _started = tracing::subscriber::set_default(subscriber(tracers, LogLayer::new(&[], None)));
        // Of no request, as in a loop in the background.
        weigh("stone").await;
        assert_eq!(recorded.0.lock().unwrap().len(), 0);
        let (id, no_headers) = (CorrelationId::parse("some").unwrap(), HashMap::new());
        let request = span::process("events-worker", &id, &no_headers, "events.get", "events", 2);
        weigh("stone").instrument(request).await;
        let spans = recorded.0.lock().unwrap();
        let [weighed, request] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((weighed.name.as_ref(), request.name.as_ref()), ("weigh", "process events.get"));
        assert_eq!(weighed.parent_span_id, request.span_context.span_id());
        let said: Vec<String> =
            weighed.attributes.iter().map(|said| format!("{}={}", said.key, said.value)).collect();
        assert_eq!(said, ["title=stone", "weight=3", "correlation_id=some"]);
        assert_eq!(
            weighed.events.events.iter().map(|event| event.name.as_ref()).collect::<Vec<_>>(),
            ["too heavy"]
        );
    }
}
