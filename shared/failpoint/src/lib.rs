//! Points at which tests end a process, to see what is left of a write.

/// Ends the process, as a kill would, when the failpoint `name` is set to `return`. Expands to nothing unless
/// the feature `enabled` is on.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::fail::fail_point!($name, |_| ::std::process::abort())
    };
}

/// Whether the failpoint `name` is set to `return`: tests plant a defect there. Never true unless the feature
/// `enabled` is on.
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {{
        let is_set = || -> bool {
            $crate::fail::fail_point!($name, |_| true);
            false
        };
        is_set()
    }};
}

/// Waits here for a second and a half, as a slow disk would make it, when the failpoint `name` is set to
/// `return`.
#[macro_export]
macro_rules! stall_point {
    ($name:literal) => {
        if $crate::fault_point!($name) {
            ::tokio::time::sleep(::std::time::Duration::from_millis(1500)).await;
        }
    };
}

pub use fail;
