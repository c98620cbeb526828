//! Points in time as the databases keep them.

use contract::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Postgres, Sqlite, Type};
use time::OffsetDateTime;

/// A [`Timestamp`] in a column: Unix milliseconds in SQLite, `timestamptz` in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTime(pub Timestamp);

#[derive(Debug, thiserror::Error)]
#[error("a time lies outside the years 1 to 9999")]
struct OutOfRange;

impl Type<Sqlite> for StoredTime {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for StoredTime {
    fn encode_by_ref(
        &self,
        buffer: &mut <Sqlite as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.0.unix_millis(), buffer)
    }
}

impl<'row> Decode<'row, Sqlite> for StoredTime {
    fn decode(value: <Sqlite as Database>::ValueRef<'row>) -> Result<Self, BoxDynError> {
        let millis = <i64 as Decode<Sqlite>>::decode(value)?;
        Ok(Self(Timestamp::from_unix_millis(millis).ok_or(OutOfRange)?))
    }
}

impl Type<Postgres> for StoredTime {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for StoredTime {
    fn encode_by_ref(
        &self,
        buffer: &mut <Postgres as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        let nanos = i128::from(self.0.unix_millis()) * 1_000_000;
        Encode::<Postgres>::encode(OffsetDateTime::from_unix_timestamp_nanos(nanos)?, buffer)
    }
}

impl<'row> Decode<'row, Postgres> for StoredTime {
    fn decode(value: <Postgres as Database>::ValueRef<'row>) -> Result<Self, BoxDynError> {
        Ok(Self(Timestamp::from(<OffsetDateTime as Decode<Postgres>>::decode(value)?)))
    }
}
