//! W3C trace context: the two ids that tie one request's messages together across processes.

use std::fmt;

use rand::Rng;

/// A `traceparent` value (W3C Trace Context, version 00).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent` value; `None` when it is malformed, so that a new trace begins.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let known_shape = version == "00" && parts.next().is_none();
        let lower_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !known_shape || !lower_hex(trace, 32) || !lower_hex(parent, 16) || !lower_hex(flags, 2) {
            return None;
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            parent_id: u64::from_str_radix(parent, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (context.trace_id != 0 && context.parent_id != 0).then_some(context)
    }

    /// A new trace, not sampled.
    fn new_root(rng: &mut impl Rng) -> Self {
        // Zero means "invalid" in both ids; one draw in 2^64 would be zero.
        Self {
            trace_id: u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64().max(1)),
            parent_id: rng.next_u64().max(1),
            flags: 0,
        }
    }

    /// Continues the trace of a received `traceparent` value by a new span, or begins a trace.
    pub fn continued(value: Option<&str>, rng: &mut impl Rng) -> Self {
        match value.and_then(Self::parse) {
            Some(trace) => trace.child(rng),
            None => Self::new_root(rng),
        }
    }

    /// The same trace, continued by a new span.
    fn child(self, rng: &mut impl Rng) -> Self {
        Self { parent_id: rng.next_u64().max(1), ..self }
    }

    /// The trace id, 32 lower-case hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::parse(text).unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let child = context.child(&mut rand::rng());
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child, context);
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
