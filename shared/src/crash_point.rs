//! Points at which tests end a process, to see what is left of a write.

/// Ends the process, as a kill would, when the failpoint `name` is set to `return`. Expands to nothing unless
/// the feature `failpoints` is on.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash_point::fail::fail_point!($name, |_| ::std::process::abort())
    };
}

pub use fail;
