//! Why a password must not be used.

use crate::{Problem, Violation};

/// Why a password is refused although its length is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedPassword {
    /// Fewer than 8 characters, or more than 128, once equal spellings are made one.
    Length,
    /// Among the most common ones.
    Common,
    /// Made of the user's own names or address, or of the organisation's or product's name.
    Personal,
    /// One character, again and again.
    Repeated,
}

impl RefusedPassword {
    /// The refusal, for the field with this name.
    pub fn into_problem(self, field: &str) -> Problem {
        let (code, rule) = match self {
            Self::Length => ("length", "must have 8 to 128 characters in its composed form"),
            Self::Common => ("common", "is among the most common passwords"),
            Self::Personal => {
                ("personal", "is made from your own name or address, or your organisation's name")
            }
            Self::Repeated => ("repeated", "is one character, again and again"),
        };
        Problem::invalid(vec![Violation::at(field, code, rule)])
    }
}
