//! Settings every service has, and how secrets are taken from files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

/// Where the system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Environment {
    /// On a developer's machine: missing secrets are generated.
    #[default]
    Development,
    /// For real: missing secrets are refused.
    Production,
}

/// How to reach the broker.
#[derive(Debug, Clone, Args)]
pub struct NatsSettings {
    /// Address of the NATS server [default: nats://127.0.0.1:4222; the all-in-one runner starts its own]
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
}

impl NatsSettings {
    /// The broker at `url`, without credentials.
    pub fn at(url: String) -> Self {
        Self { url: Some(url), user: None, password: None, password_file: None, creds: None, ca: None }
    }

    /// The address to connect to.
    pub fn url(&self) -> &str {
        self.url.as_deref().unwrap_or("nats://127.0.0.1:4222")
    }

    /// The address without the user and password it may hold, fit to be shown.
    pub fn shown_url(&self) -> String {
        match self.url().split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
            None => self.url().rsplit('@').next().unwrap_or_default().to_owned(),
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
        ] {
            assert_eq!(NatsSettings::at(url.to_owned()).shown_url(), shown);
        }
    }
}
