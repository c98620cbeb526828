//! From spans to a collector: which are recorded, what each is given, and how they are sent.

use opentelemetry::trace::{Link, SpanBuilder, SpanKind, TraceContextExt, TraceId, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{ResourceDetector, SdkProvidedResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Config, Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample};
use opentelemetry_semantic_conventions::resource as key;

use super::span::{CORRELATION_ID, Scope};

/// Makes the spans of `services`, and sends them to the collector that is configured. Without one, spans have ids and
/// nothing else.
///
/// # Errors
/// A collector that is configured in a way that cannot be understood.
pub(super) fn tracers(services: &[&'static str], sent: bool) -> Result<Tracers, ExporterBuildError> {
    if !sent || services.is_empty() {
        return Ok(unsent());
    }
    let provider = |service| {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        // Read from `OTEL_TRACES_SAMPLER` by the SDK.
        let configured = Config::default().sampler;
        let provider = SdkTracerProvider::builder().with_sampler(UnlessClient(configured));
        Ok((service, provider.with_resource(resource(service)).with_batch_exporter(exporter).build()))
    };
    services.iter().map(|service| provider(*service)).collect::<Result<_, _>>().map(Tracers::of)
}

/// Makes spans that have ids and nothing else.
pub(super) fn unsent() -> Tracers {
    Tracers::of(vec![("", SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build())])
}

/// One way to the collector for each service of this process: a resource is said once for all spans of a way. Each span
/// takes its service's, and has its correlation id.
#[derive(Debug, Clone)]
pub(super) struct Tracers {
    of_services: Vec<(&'static str, SdkTracer)>,
    providers: Vec<SdkTracerProvider>,
}

impl Tracers {
    /// Of these services; of one at least.
    pub(super) fn of(providers: Vec<(&'static str, SdkTracerProvider)>) -> Self {
        let tracer = |(service, provider): &(_, SdkTracerProvider)| (*service, provider.tracer("eventboard"));
        let of_services = providers.iter().map(tracer).collect();
        Self { of_services, providers: providers.into_iter().map(|(_, provider)| provider).collect() }
    }

    /// What must be shut down in the end.
    pub(super) fn providers(&self) -> Vec<SdkTracerProvider> {
        self.providers.clone()
    }
}

impl Tracer for Tracers {
    type Span = opentelemetry_sdk::trace::Span;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> Self::Span {
        let scope = parent.get::<Scope>();
        if let Some(id) = scope.and_then(|scope| scope.correlation_id.as_ref()) {
            let attributes = builder.attributes.get_or_insert_default();
            attributes.push(KeyValue::new(CORRELATION_ID, id.shared()));
        }
        // There is at least one.
        let is_its = |(service, _): &&(_, _)| scope.is_some_and(|scope| scope.service == *service);
        let (_, tracer) = self.of_services.iter().find(is_its).unwrap_or(&self.of_services[0]);
        tracer.build_with_context(builder, parent)
    }
}

/// What is said of `service`: unless `OTEL_SERVICE_NAME` says otherwise, it has its own name.
pub(crate) fn resource(service: &'static str) -> Resource {
    let detectors: [Box<dyn ResourceDetector>; 2] =
        [Box::new(SdkProvidedResourceDetector), Box::new(TelemetryResourceDetector)];
    let builder = || {
        let own =
            super::SETTINGS.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        Resource::builder_empty().with_detectors(&detectors).with_attributes(own)
    };
    let given = builder().build();
    let name = given.get(&key::SERVICE_NAME.into()).map(|name| name.to_string());
    let attributes = [
        KeyValue::new(key::SERVICE_NAMESPACE, "eventboard"),
        KeyValue::new(key::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(key::SERVICE_INSTANCE_ID, uuid::Uuid::new_v4().to_string()),
    ];
    let missing = attributes.into_iter().filter(|attribute| given.get(&attribute.key).is_none());
    let resource = builder().with_attributes(missing.collect::<Vec<_>>());
    match name {
        // What the SDK calls it that was not named.
        Some(name) if !name.starts_with("unknown_service") => resource.build(),
        _ => resource.with_service_name(service).build(),
    }
}

/// The configured sampler, to which a client's request is the root of its trace.
#[derive(Debug, Clone)]
struct UnlessClient(Box<dyn ShouldSample>);

impl ShouldSample for UnlessClient {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        // Contexts are inherited; only the first span's parent is of another process.
        let is_clients = |context: &&Context| {
            context.get::<Scope>().is_some_and(|scope| scope.from_client)
                && context.span().span_context().is_remote()
        };
        let trusted = parent.filter(|context| !is_clients(context));
        let mut result = self.0.should_sample(trusted, trace_id, name, kind, attributes, links);
        if let Some(parent) = parent {
            // What other vendors have added to the trace goes on.
            result.trace_state = parent.span().span_context().trace_state().clone();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    fn sampled(sampler: Sampler, flags: TraceFlags, from_client: bool, remote: bool) -> bool {
        let parent = SpanContext::new(TraceId::from(7), SpanId::from(7), flags, remote, TraceState::NONE);
        let mut context = Context::new().with_remote_span_context(parent);
        if from_client {
            context = context.with_value(Scope { service: "gateway", correlation_id: None, from_client });
        }
        let sampler = UnlessClient(Box::new(sampler));
        let result = sampler.should_sample(Some(&context), TraceId::from(7), "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_clients_flag_does_not_decide_and_a_gateways_does() {
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        let (on, off) = (Sampler::AlwaysOn, Sampler::AlwaysOff);
        assert!(sampled(parent_based(on.clone()), TraceFlags::NOT_SAMPLED, true, true));
        assert!(!sampled(parent_based(off.clone()), TraceFlags::SAMPLED, true, true));
        assert!(!sampled(parent_based(on.clone()), TraceFlags::NOT_SAMPLED, false, true));
        assert!(sampled(parent_based(off.clone()), TraceFlags::SAMPLED, false, true));
        // Below the first span, whose context is inherited, the first span decides.
        assert!(sampled(parent_based(off), TraceFlags::SAMPLED, true, false));
        assert!(!sampled(parent_based(on), TraceFlags::NOT_SAMPLED, true, false));
    }

    #[test]
    fn a_service_has_its_own_name_and_version() {
        let resource = resource("gateway");
        let value = |name: &'static str| resource.get(&name.into()).map(|value| value.to_string());
        assert_eq!(value("service.name").as_deref(), Some("gateway"));
        assert_eq!(value("service.namespace").as_deref(), Some("eventboard"));
        assert_eq!(value("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
}
