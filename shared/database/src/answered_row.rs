//! What both workers keep of an answered write, as their tables hold it.

use contract::auth::Role;
use contract::{CorrelationId, RequestIds, TraceContext};
use sqlx::FromRow;

use crate::StoreError;

/// The columns that the tables of answers have in common, to be flattened into a row.
#[derive(Debug, FromRow)]
pub struct AnsweredRow {
    fingerprint: Vec<u8>,
    role: String,
    correlation_id: String,
    trace_id: String,
    span_id: String,
    status: i16,
}

/// What they say.
#[derive(Debug)]
pub struct Answered {
    /// Of the request that was answered.
    pub fingerprint: [u8; 32],
    /// The role that the caller had then.
    pub role: Role,
    /// The request that took effect.
    pub first: RequestIds,
    /// HTTP status.
    pub status: u16,
}

impl TryFrom<AnsweredRow> for Answered {
    type Error = StoreError;

    fn try_from(row: AnsweredRow) -> Result<Self, StoreError> {
        let unknown = StoreError::UnknownValue;
        Ok(Self {
            fingerprint: row.fingerprint.try_into().map_err(|_| unknown("fingerprint"))?,
            role: row.role.parse().map_err(|_| unknown("role"))?,
            first: RequestIds {
                correlation_id: CorrelationId::parse(&row.correlation_id).ok_or(unknown("correlation id"))?,
                trace: TraceContext::read(&row.trace_id, &row.span_id),
            },
            status: u16::try_from(row.status).map_err(|_| unknown("status"))?,
        })
    }
}
