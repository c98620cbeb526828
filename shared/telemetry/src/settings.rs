//! The `OTEL_*` variables that the SDK leaves to its users.
//!
//! What the SDK reads itself (service name, resource, sampler, batches, endpoints, headers, timeouts) is not read
//! here. See the OpenTelemetry specification, "Environment Variable Specification".

use std::fmt::Display;

use percent_encoding::percent_decode_str;

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
    /// What is said of the process, by key.
    pub(crate) resource: Vec<(String, String)>,
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
        // Sent only where a collector is named: a system that is started alone has none.
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
        complaints.extend(unusable(set));
        let resource = set("OTEL_RESOURCE_ATTRIBUTES").map_or(Ok(Vec::new()), |text| attributes(&text));
        let resource = resource.unwrap_or_else(|()| {
            complaints.push(
                "OTEL_RESOURCE_ATTRIBUTES is ignored; expected <key>=<value>, several separated by commas, values \
                 percent-encoded"
                    .to_owned(),
            );
            Vec::new()
        });
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
            resource,
            complaints,
        }
    }
}

/// The attributes of `OTEL_RESOURCE_ATTRIBUTES`: as in W3C Baggage, so that a value may be percent-encoded. One that
/// cannot be decoded makes the whole variable worthless (OpenTelemetry specification, "Resource SDK").
fn attributes(text: &str) -> Result<Vec<(String, String)>, ()> {
    let decoded = |text: &str| {
        let malformed = text.match_indices('%').any(|(at, _)| {
            !text
                .as_bytes()
                .get(at + 1..at + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        });
        let decoded = percent_decode_str(text.trim()).decode_utf8();
        if malformed { Err(()) } else { decoded.map(|text| text.into_owned()).map_err(|_| ()) }
    };
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or(())?;
            let key = decoded(key)?;
            if key.is_empty() { Err(()) } else { Ok((key, decoded(value)?)) }
        })
        .collect()
}

/// Variables of the specification that nothing here reads.
const IGNORED: [(&str, &str); 9] = [
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", CERTIFICATES),
    ("OTEL_EXPORTER_OTLP_INSECURE", "the endpoint's scheme decides"),
    ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "the endpoint's scheme decides"),
];
const CERTIFICATES: &str =
    "collectors are verified by well-known authorities; send to one on the same machine instead";

/// Numbers that the SDK reads; what is none leaves it at its own.
const NUMBERS: [&str; 14] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
];

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Variables that have no effect, whether the SDK reads them or not.
fn unusable(set: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let set = &set;
    let values = |names: &'static [&'static str]| {
        names.iter().filter_map(move |name| Some((*name, set(name)?))).collect::<Vec<_>>()
    };
    for (name, why) in IGNORED.iter().filter(|(name, _)| set(name).is_some()) {
        complaints.push(format!("{name} is ignored; {why}"));
    }
    for (name, value) in values(&NUMBERS) {
        if value.trim().parse::<u64>().is_err() {
            complaints.push(format!("{name}={value} is ignored; expected a whole number"));
        }
    }
    for (name, value) in values(&[
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    ]) {
        if value != "gzip" && value != "none" {
            complaints.push(format!("{name}={value} cannot be used; known are gzip, none"));
        }
    }
    if let Some(sampler) = set("OTEL_TRACES_SAMPLER") {
        if !SAMPLERS.contains(&sampler.as_str()) {
            complaints
                .push(format!("OTEL_TRACES_SAMPLER={sampler} is ignored; known are {}", SAMPLERS.join(", ")));
        }
        let ratio = set("OTEL_TRACES_SAMPLER_ARG");
        let is_ratio = |text: &str| text.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio));
        if sampler.ends_with("traceidratio")
            && let Some(bad) = ratio.filter(|text| !is_ratio(text))
        {
            complaints
                .push(format!("OTEL_TRACES_SAMPLER_ARG={bad} is ignored; expected a ratio from 0 to 1"));
        }
    }
    complaints
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
    fn resource_attributes_are_decoded_or_left_out_as_a_whole() {
        let given = |text: &str| read(&[("OTEL_RESOURCE_ATTRIBUTES", text)]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let good = given("team=M%C3%BCller%2C%20Co, region = eu%3Dwest ,empty=,");
        assert_eq!(good.resource, [pair("team", "Müller, Co"), pair("region", "eu=west"), pair("empty", "")]);
        assert!(good.complaints.is_empty());
        for bad in ["team=%zz", "team=%4", "team=%ff", "team", "a=b,=c"] {
            let bad = given(bad);
            assert_eq!((bad.resource.len(), bad.complaints.len()), (0, 1), "{bad:?}");
        }
    }

    #[test]
    fn what_has_no_effect_is_said() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ] {
            let complaints = read(&[(variable, value)]).complaints;
            assert!(complaints.len() == 1 && complaints[0].starts_with(variable), "{complaints:?}");
        }
        let ratio =
            |text| read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", text)]);
        assert!(ratio("0.25").complaints.is_empty());
        for bad in ["half", "2", "-0.1", "NaN"] {
            assert_eq!(ratio(bad).complaints.len(), 1, "{bad}");
        }
        assert!(read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]).complaints.is_empty());
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
