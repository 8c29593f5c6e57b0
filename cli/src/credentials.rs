//! What the command line shows to the services that are named to it, and which of them it trusts. No
//! error and no help text shows a token.

use std::path::PathBuf;

use anyhow::anyhow;
use client::{ClientFiles, ClientTls, CredentialError, Credentials, TlsError, TokenSource};

use crate::output;

/// The variable with the token itself. No flag has it: everyone on the host can read a command line.
const TOKEN: &str = "AURA_CONFIGURATION_TOKEN";
const TOKEN_FILE: &str = "--token-file (AURA_CONFIGURATION_TOKEN_FILE)";
const CA_FILE: &str = "--ca-file (AURA_CONFIGURATION_CA_FILE)";
const CLIENT_CERT_FILE: &str = "--client-cert-file (AURA_CONFIGURATION_CLIENT_CERT_FILE)";
const CLIENT_KEY_FILE: &str = "--client-key-file (AURA_CONFIGURATION_CLIENT_KEY_FILE)";

/// Where the token is, as the command line names it.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub(crate) struct CredentialArgs {
    /// File with the authorities of services that are named by https://, instead of those of the system
    #[arg(
        long,
        value_name = "FILE",
        env = "AURA_CONFIGURATION_CA_FILE",
        hide_env_values = true
    )]
    ca_file: Option<PathBuf>,
    /// File with the certificate that services are shown
    #[arg(
        long,
        value_name = "FILE",
        env = "AURA_CONFIGURATION_CLIENT_CERT_FILE",
        hide_env_values = true
    )]
    client_cert_file: Option<PathBuf>,
    /// File with the key of that certificate
    #[arg(
        long,
        value_name = "FILE",
        env = "AURA_CONFIGURATION_CLIENT_KEY_FILE",
        hide_env_values = true
    )]
    client_key_file: Option<PathBuf>,
    /// File with the bearer token; the token itself can be in `AURA_CONFIGURATION_TOKEN`
    #[arg(
        long,
        value_name = "FILE",
        env = "AURA_CONFIGURATION_TOKEN_FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// Send the token by http:// to other hosts too, where a mesh encrypts
    #[arg(
        long,
        env = "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN",
        hide_env_values = true
    )]
    allow_plaintext_token: bool,
}

impl CredentialArgs {
    /// Reads the files.
    pub(crate) fn open(&self) -> anyhow::Result<Credentials> {
        // An empty variable counts as unset.
        let file =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let text = std::env::var(TOKEN).unwrap_or_default();
        let token = match (text.trim(), file(&self.token_file)) {
            ("", None) => TokenSource::None,
            (text, None) => TokenSource::Text(text.to_owned()),
            (text, Some(path)) => {
                if !text.is_empty() {
                    output::note(format_args!(
                        "confcast: {TOKEN} is not used, because {TOKEN_FILE} is set"
                    ));
                }
                TokenSource::File(path)
            }
        };
        let files = ClientFiles::new(
            file(&self.ca_file),
            file(&self.client_cert_file),
            file(&self.client_key_file),
        )?;
        let tls = ClientTls::open(files.clone()).map_err(|error| {
            let name = name_of(&error, &files);
            anyhow!(error).context(name)
        })?;
        Credentials::of(tls, token, self.allow_plaintext_token).map_err(|error| match error {
            CredentialError::File(error) => anyhow!(error).context(TOKEN_FILE),
            error => anyhow!(error).context(TOKEN),
        })
    }
}

/// The option of the file that an error is about.
fn name_of(error: &TlsError, files: &ClientFiles) -> &'static str {
    let identity = files.identity.as_ref();
    error.name_of([
        (
            CLIENT_CERT_FILE,
            identity.map(|(certificate, _key)| certificate.as_path()),
        ),
        (
            CLIENT_KEY_FILE,
            identity.map(|(_certificate, key)| key.as_path()),
        ),
        (CA_FILE, files.ca.as_deref()),
    ])
}
