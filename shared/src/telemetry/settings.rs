//! The `OTEL_*` variables that the SDK leaves to its users.
//!
//! What the SDK reads itself (service name, resource, sampler, batches, endpoints, headers, timeouts) is not read
//! here. See the OpenTelemetry specification, "Environment Variable Specification".

use std::fmt::Display;

/// Where each signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whether spans are sent to a collector.
    pub(crate) traces: bool,
    /// Whether metrics are collected for the admin port.
    pub(crate) prometheus: bool,
    /// Whether metrics are sent to a collector, too.
    pub(crate) pushed_metrics: bool,
    /// Whether log lines are written.
    pub(crate) lines: bool,
    /// Which contexts travel with messages.
    pub(crate) propagators: Propagators,
    /// What could not be understood, one sentence each.
    pub(crate) complaints: Vec<String>,
}

/// Which contexts travel with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Propagators {
    pub(crate) trace_context: bool,
    pub(crate) baggage: bool,
}

impl Settings {
    /// Reads them through `variable`. As everywhere in OpenTelemetry, an empty variable counts as none, and a
    /// value that is not known is reported and ignored.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut complaints = Vec::new();
        let mut complain = |name: &str, value: &str, known: &dyn Display| {
            complaints.push(format!("{name}={value} is ignored; known are {known}"));
        };
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let mut listed = |name: &str, usual: &[&'static str], known: &[&'static str]| -> Vec<&'static str> {
            let Some(value) = set(name) else { return usual.to_vec() };
            let parts: Vec<_> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
            let found = |part: &&str| known.iter().copied().find(|name| name == part);
            for unknown in parts.iter().filter(|part| found(part).is_none()) {
                complain(name, unknown, &known.join(", "));
            }
            let known: Vec<_> = parts.iter().filter_map(found).collect();
            // As if it were not set, when there is nothing in it that counts.
            if known.is_empty() { usual.to_vec() } else { known }
        };
        // Sent only where somebody is named who takes it: a system that is started alone has nobody.
        let is_named = |signal: &str| {
            set("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
                || set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")).is_some()
        };
        let usual: &[_] = if is_named("TRACES") { &["otlp"] } else { &[] };
        let traces = listed("OTEL_TRACES_EXPORTER", usual, &["otlp", "none"]);
        let metrics = listed("OTEL_METRICS_EXPORTER", &["prometheus"], &["prometheus", "otlp", "none"]);
        let logs = listed("OTEL_LOGS_EXPORTER", &["console"], &["console", "none"]);
        let propagators =
            listed("OTEL_PROPAGATORS", &["tracecontext", "baggage"], &["tracecontext", "baggage", "none"]);
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        ] {
            if let Some(other) = set(name).filter(|value| value != "http/protobuf") {
                complain(name, &other, &"http/protobuf");
            }
        }
        let wants = |list: &[&str], name| list.contains(&name) && !list.contains(&"none");
        Self {
            traces: wants(&traces, "otlp") && !disabled,
            prometheus: wants(&metrics, "prometheus") && !disabled,
            pushed_metrics: wants(&metrics, "otlp") && !disabled,
            lines: !logs.contains(&"none"),
            propagators: Propagators {
                trace_context: wants(&propagators, "tracecontext"),
                baggage: wants(&propagators, "baggage"),
            },
            complaints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Settings {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::read(move |wanted| {
            variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn nothing_is_sent_unless_somebody_is_named_who_takes_it() {
        let alone = read(&[]);
        assert!(!alone.traces && alone.prometheus && !alone.pushed_metrics && alone.lines);
        assert_eq!(alone.propagators, Propagators { trace_context: true, baggage: true });
        assert!(alone.complaints.is_empty());
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318")]).traces);
        assert!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://jaeger:4318/v1/traces")]).traces);
        assert!(!read(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:4318")]).traces);
        assert!(!read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).traces);
        assert!(read(&[("OTEL_TRACES_EXPORTER", "otlp")]).traces);
    }

    #[test]
    fn each_signal_can_be_turned_off_and_all_at_once() {
        let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318");
        assert!(!read(&[named, ("OTEL_TRACES_EXPORTER", "none")]).traces);
        let both = read(&[("OTEL_METRICS_EXPORTER", "prometheus, otlp")]);
        assert!(both.prometheus && both.pushed_metrics);
        assert!(!read(&[("OTEL_METRICS_EXPORTER", "none")]).prometheus);
        assert!(!read(&[("OTEL_LOGS_EXPORTER", "none")]).lines);
        let off = read(&[named, ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_METRICS_EXPORTER", "prometheus,otlp")]);
        assert!(!off.traces && !off.prometheus && !off.pushed_metrics);
        // Contexts travel on all the same, as the specification says.
        assert!(off.lines && off.propagators.trace_context);
        let none = Propagators { trace_context: false, baggage: false };
        assert_eq!(read(&[("OTEL_PROPAGATORS", "none")]).propagators, none);
        assert_eq!(read(&[("OTEL_PROPAGATORS", "tracecontext,none")]).propagators, none);
        assert_eq!(
            read(&[("OTEL_PROPAGATORS", "tracecontext")]).propagators,
            Propagators { trace_context: true, baggage: false }
        );
    }

    #[test]
    fn what_is_not_known_is_reported_and_ignored() {
        let settings = read(&[
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_PROPAGATORS", "b3,tracecontext"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ]);
        assert!(!settings.traces && settings.propagators.trace_context && !settings.propagators.baggage);
        let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318");
        let odd = read(&[
            named,
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_PROPAGATORS", "b3"),
        ]);
        assert!(odd.traces && odd.prometheus && odd.propagators.trace_context && odd.complaints.len() == 3);
        assert_eq!(
            settings.complaints,
            [
                "OTEL_TRACES_EXPORTER=zipkin is ignored; known are otlp, none",
                "OTEL_PROPAGATORS=b3 is ignored; known are tracecontext, baggage, none",
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is ignored; known are http/protobuf",
            ]
        );
    }
}
