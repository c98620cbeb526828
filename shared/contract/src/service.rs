//! A service: its name, and every operation it answers.

use crate::{Description, Operation};

/// Declares a service: its name and every operation it answers.
///
/// Defines, in the calling module, `SERVICE`, `descriptions()` and the trait `$handlers`, which a worker
/// implements by handling each operation. A listed operation without a handler is a compile
/// error that names it. Keyed operations, whose answers are saved, stand in a list of their own.
#[macro_export]
macro_rules! service {
    (
        $(#[$doc:meta])* $handlers:ident, $name:literal, admin port $admin_port:literal,
        [$($operation:path),+ $(,)?] $(, keyed [$($keyed:path),+ $(,)?])? $(, once [$($once:path),+ $(,)?])?
    ) => {
        /// The service.
        pub const SERVICE: $crate::Service = $crate::Service {
            name: $name,
            worker: ::std::concat!($name, "-worker"),
            admin_port: $admin_port,
            operations: descriptions,
        };

        /// Every operation of the service, in the order of its declaration.
        pub fn descriptions() -> ::std::vec::Vec<$crate::Description> {
            ::std::vec![
                $($crate::Description::of::<$operation>(),)+
                $($($crate::Description::of::<$keyed>()),+)?
                $($($crate::Description::of::<$once>()),+)?
            ]
        }

        /// Visits every operation of the service, in the order of its declaration.
        pub fn visit(visitor: &mut impl $crate::OperationVisitor) {
            $(visitor.visit::<$operation>();)+
            $($(visitor.visit::<$keyed>();)+)?
            $($(visitor.visit::<$once>();)+)?
        }

        $(#[$doc])*
        pub trait $handlers:
            $($crate::Handle<$operation> +)+ $($($crate::HandleKeyed<$keyed> +)+)?
            $($($crate::HandleOnce<$once> +)+)? Sized
        {
            /// Every operation bound to this handler.
            fn bind() -> ::std::vec::Vec<$crate::Endpoint<Self>> {
                ::std::vec![
                    $($crate::Endpoint::of::<$operation>(),)+
                    $($($crate::Endpoint::keyed::<$keyed>()),+)?
                    $($($crate::Endpoint::once::<$once>()),+)?
                ]
            }
        }
    };
}

/// A service on the broker, which a worker answers.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Its name on the broker, its queue group, and what each of its subjects begins with.
    pub name: &'static str,
    /// The worker's name, in log lines and traces.
    pub worker: &'static str,
    /// The worker's usual admin port.
    pub admin_port: u16,
    /// Its operations.
    pub operations: fn() -> Vec<Description>,
}

/// Something that is made for every operation, such as a route.
pub trait OperationVisitor {
    /// Makes it for `O`.
    fn visit<O: Operation>(&mut self);
}
