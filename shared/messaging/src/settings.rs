//! How to reach the broker: the settings that every service has.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;
use settings::{SecretFile, SettingsCheck, listed, secret, secret_file};

/// How to reach the broker.
#[derive(Debug, Clone, Args)]
pub struct NatsSettings {
    /// Addresses of the NATS servers, separated by commas [default: nats://127.0.0.1:4222; the all-in-one
    /// runner starts its own]
    #[arg(long = "nats-url", env = "EVENTBOARD_NATS_URL", hide_env_values = true)]
    pub url: Option<String>,
    /// User name for the NATS server
    #[arg(long = "nats-user", env = "EVENTBOARD_NATS_USER")]
    pub user: Option<String>,
    /// Password for the NATS server
    #[arg(long = "nats-password", env = "EVENTBOARD_NATS_PASSWORD", hide_env_values = true, value_parser = secret, conflicts_with = "password_file")]
    password: Option<SecretString>,
    /// File with the password for the NATS server
    #[arg(long = "nats-password-file", env = "EVENTBOARD_NATS_PASSWORD_FILE", value_parser = secret_file)]
    password_file: Option<SecretFile>,
    /// NATS credentials file (JWT and seed)
    #[arg(long = "nats-creds", env = "EVENTBOARD_NATS_CREDS")]
    pub creds: Option<PathBuf>,
    /// CA certificate of the NATS server; requires TLS
    #[arg(long = "nats-ca", env = "EVENTBOARD_NATS_CA")]
    pub ca: Option<PathBuf>,
    /// Client certificate to show the NATS server; requires TLS
    #[arg(long = "nats-cert", env = "EVENTBOARD_NATS_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate
    #[arg(long = "nats-key", env = "EVENTBOARD_NATS_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
}

impl NatsSettings {
    /// The broker at `url`, without credentials.
    pub fn at(url: String) -> Self {
        Self {
            url: Some(url),
            user: None,
            password: None,
            password_file: None,
            creds: None,
            ca: None,
            cert: None,
            key: None,
        }
    }

    /// The same broker, as this user.
    #[must_use]
    pub fn with_user(self, user: &str, password: String) -> Self {
        Self { user: Some(user.to_owned()), password: Some(SecretString::from(password)), ..self }
    }

    /// The addresses to connect to; one that answers is enough.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        listed(self.url.as_deref().unwrap_or("nats://127.0.0.1:4222"))
    }

    /// The addresses without the users and passwords they may hold, fit to be shown.
    pub fn shown_url(&self) -> String {
        let shown = self.urls().map(|url| match url.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
            None => url.rsplit('@').next().unwrap_or_default().to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }

    /// Reports to `check` what cannot be used, and what production cannot accept.
    pub fn check<'a>(&'a self, check: &mut SettingsCheck<'a>) {
        const URL: &str = "EVENTBOARD_NATS_URL";
        check.file("EVENTBOARD_NATS_PASSWORD_FILE", self.password_file.as_ref());
        if self.urls().next().is_none() {
            check.refuse(URL, "names no server");
        }
        if self.url.is_none() {
            check.forbid(URL, "is required");
        } else if self.ca.is_none() && !self.urls().all(|url| url.starts_with("tls://")) {
            check.forbid(URL, "is not encrypted: use tls://, or set EVENTBOARD_NATS_CA");
        }
        if self.urls().any(|url| url.contains('@')) {
            check.forbid(URL, "holds a password: move it to EVENTBOARD_NATS_PASSWORD_FILE");
        }
        match (&self.creds, &self.user, self.password()) {
            (Some(_), _, _) => {}
            (None, Some(_), Some(password)) => check.secret("EVENTBOARD_NATS_PASSWORD", password),
            (None, None, _) => check.forbid("EVENTBOARD_NATS_USER", "or EVENTBOARD_NATS_CREDS is required"),
            // Said above.
            (None, Some(_), None) if self.password_file.is_some() => {}
            (None, Some(_), None) => {
                check.forbid("EVENTBOARD_NATS_PASSWORD", "is required with EVENTBOARD_NATS_USER");
            }
        }
    }

    /// The password, from whichever source it came.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref().or_else(|| self.password_file.as_ref()?.secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_address_are_not_shown() {
        for (url, shown) in [
            ("nats://app:s3cret@broker:4222", "nats://broker:4222"),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("token@broker", "broker"),
            ("nats://a:b@one:1, nats://c:d@two:2", "nats://one:1,nats://two:2"),
            (" ,nats://one:1,, nats://two:2,", "nats://one:1,nats://two:2"),
        ] {
            assert_eq!(NatsSettings::at(url.to_owned()).shown_url(), shown);
        }
    }
}
