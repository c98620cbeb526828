//! How settings are read, and which of them are refused.

use std::collections::HashSet;
use std::convert::Infallible;
use std::error::Error as _;
use std::ffi::OsStr;
use std::fmt;
use std::io::Write;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser, ValueEnum};
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

/// What a process ends with whose settings are wrong: `EX_CONFIG` of `sysexits.h`. Starting it again would not help.
pub const EX_CONFIG: u8 = 78;

/// Gathers what is wrong with the settings, so that all of it is said at once.
#[derive(Debug)]
pub struct SettingsCheck<'a> {
    env: Environment,
    refusals: Vec<String>,
    secrets: Vec<(&'static str, &'a SecretString)>,
}

/// Settings that cannot be used, or that production does not accept, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    env: Environment,
    lines: Vec<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.env {
            Environment::Development => write!(f, "these settings cannot be used:")?,
            Environment::Production => write!(f, "EVENTBOARD_ENV=production refuses to start:")?,
        }
        self.lines.iter().try_for_each(|refusal| write!(f, "\n  {refusal}"))
    }
}

impl<'a> SettingsCheck<'a> {
    /// Nothing is refused yet.
    pub fn new(env: Environment) -> Self {
        Self { env, refusals: Vec::new(), secrets: Vec::new() }
    }

    /// Refuses what `variable` is set to, or that it is not set, wherever the system runs.
    pub fn refuse(&mut self, variable: &str, why: impl fmt::Display) {
        self.refusals.push(format!("{variable} {why}"));
    }

    /// Refuses it in production.
    pub fn forbid(&mut self, variable: &str, why: impl fmt::Display) {
        if self.env == Environment::Production {
            self.refuse(variable, why);
        }
    }

    /// Refuses a file that cannot be read, or that holds nothing.
    pub fn file(&mut self, variable: &str, file: Option<&SecretFile>) {
        if let Some(Err(why)) = file.map(|file| &file.content) {
            self.refuse(variable, why);
        }
    }

    /// Refuses a password that is short, simple, one of the samples, or used for something else too.
    pub fn secret(&mut self, variable: &'static str, secret: &'a SecretString) {
        let text = secret.expose_secret();
        if text.to_ascii_lowercase().contains(SAMPLE_MARK) {
            self.forbid(variable, SAMPLE);
        } else if text.len() < MIN_SECRET_BYTES {
            self.forbid(variable, format_args!("is shorter than {MIN_SECRET_BYTES} bytes"));
        } else if text.bytes().collect::<HashSet<u8>>().len() < MIN_DIFFERENT_BYTES {
            self.forbid(variable, format_args!("has fewer than {MIN_DIFFERENT_BYTES} different characters"));
        }
        let same = self.secrets.iter().find(|(_, other)| other.expose_secret() == text);
        if let Some((other, _)) = same {
            let why = format!("is the same as {other}");
            self.forbid(variable, why);
        }
        self.secrets.push((variable, secret));
    }

    /// Refuses the demo data: its passwords are public.
    pub fn demo(&mut self, wanted: bool) {
        if wanted {
            self.forbid("EVENTBOARD_DEMO", "would create users whose passwords are public");
        }
    }

    /// The outcome.
    ///
    /// # Errors
    /// [`Refused`], with everything that was refused.
    pub fn finish(self) -> Result<(), Refused> {
        let Self { env, refusals: lines, .. } = self;
        if lines.is_empty() { Ok(()) } else { Err(Refused { env, lines }) }
    }
}

/// Why a sample secret is refused.
pub const SAMPLE: &str = "is a sample, which is public";

/// A secret that stands in a file, which is read when the setting is.
#[derive(Debug, Clone)]
pub struct SecretFile {
    content: Result<SecretString, String>,
}

impl SecretFile {
    /// The secret, without the line break at its end; `None` where there is none ([`SettingsCheck::file`]).
    pub fn secret(&self) -> Option<&SecretString> {
        self.content.as_ref().ok()
    }
}

/// The parts of a setting that is a list: separated by commas, without the blanks around them. Empty ones do not
/// count.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Reads the command line and the variables. An empty variable counts as none. A value that cannot be used ends the
/// process, and the message names the variable that it came from.
pub fn parse<A: Parser>() -> A {
    let command = without_empty_variables(A::command());
    let parsed = command.clone().try_get_matches().and_then(|matches| A::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| match variable_of(&command, &error) {
        Some(variable) => {
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            // Standard error may be closed.
            let _ = writeln!(std::io::stderr(), "{variable}: {why}");
            std::process::exit(EX_CONFIG.into())
        }
        None => error.exit(),
    })
}

fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(Resettable::Reset),
            _ => argument,
        })
        .mut_subcommands(without_empty_variables)
}

/// The variable that an unusable value came from, if it came from one.
fn variable_of(command: &Command, error: &clap::Error) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = argument.strip_prefix("--")?.split([' ', '=']).next()?;
    let given = std::env::args_os()
        .filter_map(|given| given.into_string().ok())
        .any(|given| given.strip_prefix("--").is_some_and(|given| given.split('=').next() == Some(long)));
    find_variable(command, long).filter(|_| !given)
}

fn find_variable(command: &Command, long: &str) -> Option<String> {
    let argument = command.get_arguments().find(|argument| argument.get_long() == Some(long));
    let own =
        argument.and_then(|argument| argument.get_env()).filter(|name| std::env::var_os(name).is_some());
    let own = own.map(|name| name.to_string_lossy().into_owned());
    own.or_else(|| command.get_subcommands().find_map(|command| find_variable(command, long)))
}

/// Takes a secret from an argument or variable.
///
/// # Errors
/// Never; the signature is clap's.
pub fn secret(value: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(value.to_owned()))
}

/// Takes a secret from a file. What is wrong with it is reported together with everything else ([`SettingsCheck::file`]).
///
/// # Errors
/// Never; the signature is clap's.
pub fn secret_file(path: &str) -> Result<SecretFile, Infallible> {
    let content = match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err(format!("names {path}, which holds nothing")),
        Ok(text) => Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => Err(format!("names {path}, which cannot be read: {error}")),
    };
    Ok(SecretFile { content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_sample_and_repeated_secrets_are_refused() {
        let refused = |values: &[(&'static str, &str)]| {
            let secrets: Vec<_> =
                values.iter().map(|(name, value)| (*name, SecretString::from((*value).to_owned()))).collect();
            let mut check = SettingsCheck::new(Environment::Production);
            for (name, value) in &secrets {
                check.secret(name, value);
            }
            check.finish().map_err(|refused| refused.lines)
        };
        let strong = "k3YtqT0bW8rXn5vUe1cPz7LhGd2MfSaJ";
        assert_eq!(refused(&[("A", strong), ("B", &strong.replace('k', "K"))]), Ok(()));
        for (value, why) in [
            ("short", "A is shorter than 32 bytes"),
            ("sample-password-of-the-gateway-0000", "A is a sample, which is public"),
            ("abababababababababababababababababab", "A has fewer than 12 different characters"),
        ] {
            assert_eq!(refused(&[("A", value)]), Err(vec![why.to_owned()]));
        }
        assert_eq!(refused(&[("A", strong), ("B", strong)]), Err(vec!["B is the same as A".to_owned()]));
    }
}
