//! Settings of authentication, the same at both services: which credentials there are, and what a
//! caller without one may do. Only the command line parser reads the environment.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ::tls::ServerTls;
use auth::{Anonymous, Authenticator, FileKind, Files, Setup};

use crate::{
    http::tls::CLIENT_CA_FILE,
    runtime::settings::{SettingChecks, boolean},
};

const TOKENS_FILE: &str = "AURA_CONFIGURATION_TOKENS_FILE";
const ISSUERS_FILE: &str = "AURA_CONFIGURATION_ISSUERS_FILE";
const CERTIFICATES_FILE: &str = "AURA_CONFIGURATION_CERTIFICATES_FILE";
const ANONYMOUS: &str = "AURA_CONFIGURATION_ANONYMOUS";
const BEYOND_LOOPBACK: &str = "AURA_CONFIGURATION_ALLOW_ANONYMOUS_BEYOND_LOOPBACK";

/// The texts of the settings, and their help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessArgs {
    /// File with the records of bearer tokens, one JSON object in each line.
    ///
    /// `confcast token create --offline` writes a token and its record. The file is read again when
    /// it changes. With it, every request needs a credential.
    #[arg(long, env = TOKENS_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    tokens_file: String,

    /// JSON file with the issuers whose JSON Web Tokens are accepted, and the grants of their claims.
    ///
    /// The file, and files of keys that it names, are read again when they change. With it, every
    /// request needs a credential.
    #[arg(long, env = ISSUERS_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    issuers_file: String,

    /// JSON file with the grants of names in client certificates.
    ///
    /// It is read again when it changes. With it, every request needs a credential.
    #[arg(long, env = CERTIFICATES_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    certificates_file: String,

    /// What a request without a credential may do: `refused`, or `loopback` (everything, from this
    /// host).
    ///
    /// When it is not set, such a request may do everything while no file with credentials is set, and
    /// nothing otherwise. A proxy or a sidecar on this host makes requests of others local, unless it
    /// adds `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `Via`.
    #[arg(long, env = ANONYMOUS, value_name = "WHERE", default_value = "", hide_default_value = true)]
    anonymous: String,

    /// Whether the service starts without credentials on an address that other hosts can reach:
    /// `true` or `false`. Every peer then has every right.
    #[arg(long, env = BEYOND_LOOPBACK, value_name = "BOOLEAN", default_value = "", hide_default_value = true)]
    allow_anonymous_beyond_loopback: String,
}

impl AccessArgs {
    /// Checks the settings, and reads the files; `None` when an error was recorded. Without any
    /// credential, an address that other hosts can reach is refused.
    pub fn check(
        &self,
        checks: &mut SettingChecks,
        listen: Option<SocketAddr>,
    ) -> Option<Arc<Authenticator>> {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let files = Files {
            tokens: path(&self.tokens_file),
            issuers: path(&self.issuers_file),
            certificates: path(&self.certificates_file),
        };
        let allowed = match self.allow_anonymous_beyond_loopback.as_str() {
            "" => Some(false),
            text => checks.check(BEYOND_LOOPBACK, text, boolean(text)),
        };
        let anonymous = match self.anonymous.as_str() {
            "" if files.is_empty() => Some(Anonymous::Allowed),
            "" | "refused" => Some(Anonymous::Refused),
            "loopback" => Some(Anonymous::Local),
            other => checks.check(ANONYMOUS, other, Err("expected refused or loopback")),
        };
        let (allowed, anonymous) = (allowed?, anonymous?);
        let is_open = anonymous == Anonymous::Allowed;
        if anonymous == Anonymous::Local {
            tracing::warn!(
                "{ANONYMOUS}=loopback: every process of this host may do everything without a \
                 credential"
            );
        }
        if allowed && !is_open {
            let what = format_args!("true: it contradicts the credentials, or {ANONYMOUS}");
            checks.error(BEYOND_LOOPBACK, what);
            return None;
        }
        if let Some(listen) = listen
            && !listen.ip().to_canonical().is_loopback()
            && is_open
            && !allowed
        {
            refuse_open(checks, "AURA_CONFIGURATION_LISTEN", listen);
            return None;
        }
        let setup = Setup {
            anonymous,
            files,
            read: crate::runtime::regular_file::read,
            http: super::issuer_client,
        };
        match Authenticator::new(setup) {
            Ok(authenticator) => Some(Arc::new(authenticator)),
            Err(wrong) => {
                for error in wrong {
                    let name = match error.kind {
                        FileKind::Tokens => TOKENS_FILE,
                        FileKind::Issuers => ISSUERS_FILE,
                        FileKind::Certificates => CERTIFICATES_FILE,
                    };
                    checks.error(name, error);
                }
                None
            }
        }
    }

    /// Records an error where other hosts can reach a second address of the service, and no credential
    /// is asked for.
    pub fn check_second(
        &self,
        checks: &mut SettingChecks,
        name: &str,
        listen: SocketAddr,
        authenticator: &Authenticator,
    ) {
        let is_allowed = boolean(&self.allow_anonymous_beyond_loopback) == Ok(true);
        if !listen.ip().to_canonical().is_loopback() && authenticator.is_open() && !is_allowed {
            refuse_open(checks, name, listen);
        }
    }

    /// Records an error where names in client certificates have grants, and no handshake asks for a
    /// certificate.
    pub fn check_certificates(&self, checks: &mut SettingChecks, tls: Option<&ServerTls>) {
        if !self.certificates_file.is_empty() && !tls.is_some_and(ServerTls::asks_for_certificates)
        {
            let reason =
                format_args!("{CERTIFICATES_FILE} needs client certificates, which need TLS");
            checks.missing(CLIENT_CA_FILE, reason);
        }
    }
}

fn refuse_open(checks: &mut SettingChecks, name: &str, listen: SocketAddr) {
    let what = format_args!(
        "{listen}: other hosts can reach this address, and no credential is configured. Listen \
         on 127.0.0.1; or set {TOKENS_FILE} (`confcast token create --offline` makes the first \
         token), {ISSUERS_FILE} or {CERTIFICATES_FILE}; or let every peer do everything with \
         {BEYOND_LOOPBACK}=true"
    );
    checks.error(name, what);
}

/// Records an error where events come without a token and callers need a credential: a sidecar, or a
/// publisher that posts events itself, has no other. Call it when `APP_API_TOKEN` is not set.
pub fn sidecar_needs_token(checks: &mut SettingChecks, authenticator: &Authenticator) {
    if authenticator.anonymous() == Anonymous::Refused {
        checks.missing(
            "APP_API_TOKEN",
            "no event is accepted without it: callers need a credential here, and this is the one of \
             a sidecar and of a publisher with LOCAL. Give both sides the same",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::settings::SettingsError;

    fn checked(args: &AccessArgs, listen: &str) -> Result<Arc<Authenticator>, Vec<String>> {
        let mut checks = SettingChecks::default();
        let found = args.check(&mut checks, Some(listen.parse().expect("an address")));
        checks.finish(found).map_err(|SettingsError(errors)| errors)
    }

    fn args(change: impl FnOnce(&mut AccessArgs)) -> AccessArgs {
        let mut args = AccessArgs::default();
        change(&mut args);
        args
    }

    const BEYOND: &str = "0.0.0.0:80";

    #[test]
    fn without_credentials_a_service_is_open_on_loopback_and_does_not_start_beyond() {
        let none = AccessArgs::default();
        for loopback in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(checked(&none, loopback).expect("it starts").is_open());
        }
        for beyond in [BEYOND, "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
            let errors = checked(&none, beyond).expect_err("it does not start");
            assert!(
                errors.len() == 1
                    && [
                        TOKENS_FILE,
                        ISSUERS_FILE,
                        CERTIFICATES_FILE,
                        BEYOND_LOOPBACK
                    ]
                    .iter()
                    .all(|name| errors[0].contains(name)),
                "{errors:?}"
            );
        }
        let told = args(|args| args.allow_anonymous_beyond_loopback = "true".to_owned());
        assert!(checked(&told, BEYOND).expect("it starts").is_open());
    }

    #[test]
    fn with_a_credential_or_a_word_about_anonymous_callers_it_starts_anywhere_and_asks() {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("tokens-{}", std::process::id()));
        std::fs::write(&file, "").expect("a file");
        let with_file = args(|args| args.tokens_file = file.display().to_string());
        for args in [
            with_file,
            args(|args| args.anonymous = "refused".to_owned()),
            args(|args| args.anonymous = "loopback".to_owned()),
        ] {
            assert!(!checked(&args, BEYOND).expect("it starts").is_open());
        }
        std::fs::remove_file(&file).expect("the file");
    }

    #[test]
    fn wrong_settings_name_themselves() {
        for (args, name) in [
            (
                args(|args| args.tokens_file = "/none".to_owned()),
                TOKENS_FILE,
            ),
            (
                args(|args| args.issuers_file = "/none".to_owned()),
                ISSUERS_FILE,
            ),
            (
                args(|args| args.certificates_file = "/none".to_owned()),
                CERTIFICATES_FILE,
            ),
            (args(|args| args.anonymous = "nobody".to_owned()), ANONYMOUS),
            (
                args(|args| args.allow_anonymous_beyond_loopback = "yes".to_owned()),
                BEYOND_LOOPBACK,
            ),
            (
                args(|args| {
                    args.anonymous = "refused".to_owned();
                    args.allow_anonymous_beyond_loopback = "true".to_owned();
                }),
                BEYOND_LOOPBACK,
            ),
        ] {
            let errors = checked(&args, "127.0.0.1:80").expect_err("a wrong setting");
            assert!(errors[0].starts_with(&format!("{name}=")), "{errors:?}");
        }
    }
}
