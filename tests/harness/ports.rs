//! Ports for servers that are started again where they were.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below what Linux gives to sockets that ask for any port, and above what is commonly in use.
const RANGE: std::ops::Range<u32> = 12_000..32_000;

/// A port that no other test is given, and no other socket is likely to take while its server is down.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Several test binaries may run at once: each begins elsewhere.
    let begin = std::process::id().wrapping_mul(769);
    for _ in RANGE {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port =
            u16::try_from(RANGE.start + next % (RANGE.end - RANGE.start)).expect("a port in the range");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("there is no free port")
}
