//! The ids that a span is found by in traces.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// A span of a trace (W3C Trace Context), by which its whole trace is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; 32 lower-case hexadecimal digits as text.
    pub trace_id: TraceId,
    /// The span; 16 lower-case hexadecimal digits as text.
    pub span_id: SpanId,
}

impl TraceContext {
    /// No trace: where nothing is set up that makes spans.
    pub const NONE: Self = Self { trace_id: TraceId::INVALID, span_id: SpanId::INVALID };

    /// The ids of `span`.
    pub fn of(span: &SpanContext) -> Self {
        Self { trace_id: span.trace_id(), span_id: span.span_id() }
    }

    /// Reads what was stored of a span. What cannot be read is none, and links to nothing.
    pub fn read(trace_id: &str, span_id: &str) -> Self {
        Self {
            trace_id: TraceId::from_hex(trace_id).unwrap_or(TraceId::INVALID),
            span_id: SpanId::from_hex(span_id).unwrap_or(SpanId::INVALID),
        }
    }

    /// The span as something to link to.
    pub fn to_span_context(self) -> SpanContext {
        SpanContext::new(self.trace_id, self.span_id, TraceFlags::SAMPLED, true, TraceState::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_ids_are_read_or_lead_nowhere() {
        let (trace_id, span_id) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = TraceContext::read(trace_id, span_id);
        assert_eq!(
            (read.trace_id.to_string().as_str(), read.span_id.to_string().as_str()),
            (trace_id, span_id)
        );
        assert!(read.to_span_context().is_valid());
        assert_eq!(TraceContext::of(&read.to_span_context()), read);
        for (trace_id, span_id) in [(trace_id, ""), ("", span_id), ("nothing", "at all")] {
            assert!(!TraceContext::read(trace_id, span_id).to_span_context().is_valid());
        }
    }
}
