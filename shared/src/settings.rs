//! Settings every service has, and how secrets are taken from files.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};

/// Where the system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Environment {
    /// On a developer's machine: missing secrets are generated.
    #[default]
    Development,
    /// For real: missing or weak secrets, demo data and unencrypted links are refused.
    Production,
}

/// The shortest secret that production accepts, in bytes.
const MIN_SECRET_BYTES: usize = 32;
/// The fewest different bytes in a secret that production accepts.
const MIN_DIFFERENT_BYTES: usize = 12;
/// Every secret that comes with the sources holds this text.
const SAMPLE_MARK: &str = "sample";

/// Gathers what production cannot accept, so that all of it is said at once.
#[derive(Debug, Default)]
pub struct ProductionCheck<'a> {
    refusals: Vec<String>,
    secrets: Vec<(&'static str, &'a SecretString)>,
}

/// Settings that production cannot accept, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused(Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EVENTBOARD_ENV=production refuses to start:")?;
        self.0.iter().try_for_each(|refusal| write!(f, "\n  {refusal}"))
    }
}

impl<'a> ProductionCheck<'a> {
    /// Refuses what `variable` is set to, or that it is not set.
    pub fn refuse(&mut self, variable: &'static str, why: impl fmt::Display) {
        self.refusals.push(format!("{variable} {why}"));
    }

    /// Refuses a password that is short, simple, one of the samples, or used for something else too.
    pub fn secret(&mut self, variable: &'static str, secret: &'a SecretString) {
        let text = secret.expose_secret();
        if text.to_ascii_lowercase().contains(SAMPLE_MARK) {
            self.refuse(variable, "is a sample that everybody knows");
        } else if text.len() < MIN_SECRET_BYTES {
            self.refuse(variable, format_args!("is shorter than {MIN_SECRET_BYTES} bytes"));
        } else if text.bytes().collect::<HashSet<u8>>().len() < MIN_DIFFERENT_BYTES {
            self.refuse(variable, format_args!("has fewer than {MIN_DIFFERENT_BYTES} different characters"));
        }
        let same = self.secrets.iter().find(|(_, other)| other.expose_secret() == text);
        if let Some((other, _)) = same {
            let why = format!("is the same as {other}");
            self.refuse(variable, why);
        }
        self.secrets.push((variable, secret));
    }

    /// Refuses the demo data: its passwords are public.
    pub fn demo(&mut self, wanted: bool) {
        if wanted {
            self.refuse("EVENTBOARD_DEMO", "would create users whose passwords everybody knows");
        }
    }

    /// The outcome.
    ///
    /// # Errors
    /// [`Refused`], with everything that was refused.
    pub fn finish(self) -> Result<(), Refused> {
        if self.refusals.is_empty() { Ok(()) } else { Err(Refused(self.refusals)) }
    }
}

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
    password_file: Option<SecretString>,
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
        self.url.as_deref().unwrap_or("nats://127.0.0.1:4222").split(',').map(str::trim)
    }

    /// The addresses without the users and passwords they may hold, fit to be shown.
    pub fn shown_url(&self) -> String {
        let shown = self.urls().map(|url| match url.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
            None => url.rsplit('@').next().unwrap_or_default().to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }

    /// Tells `check` what production cannot accept.
    pub fn check<'a>(&'a self, check: &mut ProductionCheck<'a>) {
        const URL: &str = "EVENTBOARD_NATS_URL";
        if self.url.is_none() {
            check.refuse(URL, "is required");
        } else if self.ca.is_none() && !self.urls().all(|url| url.starts_with("tls://")) {
            check.refuse(URL, "is not encrypted: use tls://, or set EVENTBOARD_NATS_CA");
        }
        if self.urls().any(|url| url.contains('@')) {
            check.refuse(URL, "holds a password: move it to EVENTBOARD_NATS_PASSWORD_FILE");
        }
        match (&self.creds, &self.user, self.password()) {
            (Some(_), _, _) => {}
            (None, Some(_), Some(password)) => check.secret("EVENTBOARD_NATS_PASSWORD", password),
            (None, None, _) => check.refuse("EVENTBOARD_NATS_USER", "or EVENTBOARD_NATS_CREDS is required"),
            (None, Some(_), None) => {
                check.refuse("EVENTBOARD_NATS_PASSWORD", "is required with EVENTBOARD_NATS_USER");
            }
        }
    }

    /// The password, from whichever source it came.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref().or(self.password_file.as_ref())
    }
}

/// Takes a secret from an argument or variable.
///
/// # Errors
/// Never; the signature is clap's.
pub fn secret(value: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(value.to_owned()))
}

/// Takes a secret from a file, without the line break at its end.
///
/// # Errors
/// When the file cannot be read.
pub fn secret_file(path: &str) -> Result<SecretString, String> {
    std::fs::read_to_string(path)
        .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
        .map_err(|error| format!("cannot read {path}: {error}"))
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
        ] {
            assert_eq!(NatsSettings::at(url.to_owned()).shown_url(), shown);
        }
    }

    #[test]
    fn weak_sample_and_repeated_secrets_are_refused() {
        let refused = |values: &[(&'static str, &str)]| {
            let secrets: Vec<_> =
                values.iter().map(|(name, value)| (*name, SecretString::from((*value).to_owned()))).collect();
            let mut check = ProductionCheck::default();
            for (name, value) in &secrets {
                check.secret(name, value);
            }
            check.finish().map_err(|Refused(lines)| lines)
        };
        let strong = "k3YtqT0bW8rXn5vUe1cPz7LhGd2MfSaJ";
        assert_eq!(refused(&[("A", strong), ("B", &strong.replace('k', "K"))]), Ok(()));
        for (value, why) in [
            ("short", "A is shorter than 32 bytes"),
            ("sample-password-of-the-gateway-0000", "A is a sample that everybody knows"),
            ("abababababababababababababababababab", "A has fewer than 12 different characters"),
        ] {
            assert_eq!(refused(&[("A", value)]), Err(vec![why.to_owned()]));
        }
        assert_eq!(refused(&[("A", strong), ("B", strong)]), Err(vec!["B is the same as A".to_owned()]));
    }
}
