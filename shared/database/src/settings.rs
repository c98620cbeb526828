//! Which database a worker uses, and what production refuses about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use settings::{SecretFile, SettingsCheck, secret, secret_file};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

const URL: &str = "EVENTBOARD_DATABASE_URL";
const PASSWORD: &str = "EVENTBOARD_DATABASE_PASSWORD";

/// A worker's database.
#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// Database: sqlite:<path> or postgres://<user>@<host>:<port>/<database>?sslmode=verify-full&sslrootcert=<path>
    /// [default: a file in the data directory]
    #[arg(long, env = URL, hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,
    /// Password for Postgres
    #[arg(long, env = PASSWORD, hide_env_values = true, value_parser = secret, conflicts_with = "database_password_file")]
    database_password: Option<SecretString>,
    /// File with the password for Postgres
    #[arg(long, env = "EVENTBOARD_DATABASE_PASSWORD_FILE", value_parser = secret_file)]
    database_password_file: Option<SecretFile>,
    /// Connections to Postgres this process may use at once
    #[arg(long, env = "EVENTBOARD_DATABASE_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_connections: u32,
    /// Prepared statements kept per connection to Postgres; 0 keeps none, for a PgBouncer in transaction mode that keeps none either
    #[arg(long, env = "EVENTBOARD_DATABASE_STATEMENT_CACHE", default_value_t = 100)]
    pub database_statement_cache: usize,
}

/// Where a database is.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// An SQLite file; the embedded default.
    Sqlite(PathBuf),
    /// A Postgres server.
    Postgres(Box<PgConnectOptions>),
}

/// A database URL that names no database. The URL itself may hold a password, so it is not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected sqlite:<path> or postgres://<user>@<host>:<port>/<database>")]
pub struct UnknownDatabase;

impl DatabaseSettings {
    /// The database at `url`, or the default one.
    pub fn at(url: Option<SecretString>) -> Self {
        Self {
            database_url: url,
            database_password: None,
            database_password_file: None,
            database_connections: 10,
            database_statement_cache: 100,
        }
    }

    /// The database to open: the one that was named, with its password, or the file `default`.
    ///
    /// # Errors
    /// [`UnknownDatabase`].
    pub fn resolve(&self, default: &Path) -> Result<DatabaseUrl, UnknownDatabase> {
        let Some(url) = &self.database_url else { return Ok(DatabaseUrl::Sqlite(default.to_owned())) };
        match url.expose_secret().parse()? {
            DatabaseUrl::Postgres(mut options) => {
                if let Some(password) = self.password() {
                    *options = options.password(password.expose_secret());
                }
                // No number here has fractions, and PgBouncer refuses a start-up parameter that it does not know.
                *options = options.extra_float_digits(None);
                Ok(DatabaseUrl::Postgres(options))
            }
            url => Ok(url),
        }
    }

    fn password(&self) -> Option<&SecretString> {
        self.database_password.as_ref().or_else(|| self.database_password_file.as_ref()?.secret())
    }

    /// Reports to `check` what cannot be used, and what production cannot accept.
    pub fn check<'a>(&'a self, check: &mut SettingsCheck<'a>) {
        check.file("EVENTBOARD_DATABASE_PASSWORD_FILE", self.database_password_file.as_ref());
        let Some(url) = &self.database_url else {
            return check.forbid(URL, "is required: the default file would be lost with its machine");
        };
        match url.expose_secret().parse() {
            Err(error @ UnknownDatabase) => check.refuse(URL, error),
            Ok(DatabaseUrl::Sqlite(_)) => {}
            Ok(DatabaseUrl::Postgres(options)) => {
                let encrypted = matches!(
                    options.get_ssl_mode(),
                    PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
                );
                if !encrypted && options.get_socket().is_none() {
                    check.forbid(URL, "is not encrypted: add ?sslmode=verify-full&sslrootcert=<path>");
                }
                if url_has_password(url.expose_secret()) {
                    check.forbid(URL, "holds a password: move it to EVENTBOARD_DATABASE_PASSWORD_FILE");
                }
            }
        }
        if let Some(password) = self.password() {
            check.secret(PASSWORD, password);
        }
    }
}

fn url_has_password(url: &str) -> bool {
    let authority =
        url.split_once("://").map_or(url, |(_, rest)| rest.split(['/', '?']).next().unwrap_or(""));
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || url.contains("password=")
}

impl DatabaseUrl {
    /// The same, with this name in the server's list of connections.
    #[must_use]
    pub fn named(self, application: &str) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(path),
            Self::Postgres(options) => Self::Postgres(Box::new(options.application_name(application))),
        }
    }

    /// Whether this names a database.
    ///
    /// # Errors
    /// [`UnknownDatabase`].
    pub fn check(url: &SecretString) -> Result<(), UnknownDatabase> {
        url.expose_secret().parse().map(|_: Self| ())
    }
}

impl FromStr for DatabaseUrl {
    type Err = UnknownDatabase;

    fn from_str(url: &str) -> Result<Self, UnknownDatabase> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = url.parse::<PgConnectOptions>().map_err(|_| UnknownDatabase)?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        let path = url.strip_prefix("sqlite:").ok_or(UnknownDatabase)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() { Err(UnknownDatabase) } else { Ok(Self::Sqlite(PathBuf::from(path))) }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(options) => write!(
                f,
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Option<String> {
        url.parse::<DatabaseUrl>().ok().map(|url| format!("{url:?}"))
    }

    #[test]
    fn urls_name_a_database_or_are_refused_and_passwords_are_not_shown() {
        assert_eq!(shown("sqlite:///a/b.db").as_deref(), Some("sqlite:/a/b.db"));
        assert_eq!(shown("sqlite:b.db").as_deref(), Some("sqlite:b.db"));
        assert_eq!(
            shown("postgres://app:s3cret@db:5433/events").as_deref(),
            Some("postgres://db:5433/events")
        );
        for bad in ["", "sqlite:", "mysql://localhost/x", "b.db", "postgres://[::x"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_in_urls_are_seen() {
        for (url, has) in [
            ("postgres://app:s3cret@db/events", true),
            ("postgres://app@db/events?password=x", true),
            ("postgres://app@db:5432/events", false),
            ("postgres://db:5432/events", false),
        ] {
            assert_eq!(url_has_password(url), has, "{url}");
        }
    }
}
