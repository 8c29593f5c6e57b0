//! What the command line shows to the services that are named to it, and which of them it trusts. No
//! error and no help text shows a token.

use std::path::PathBuf;

use client::{ClientFiles, CredentialSettings, Credentials, TokenSource};

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
    // Only from the environment: everyone on the host can read a command line.
    #[arg(
        long,
        env = "AURA_CONFIGURATION_TOKEN",
        hide = true,
        hide_env_values = true
    )]
    token: Option<String>,
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
        let token = match (&self.token, file(&self.token_file)) {
            (_, Some(path)) => TokenSource::File(path),
            (Some(text), None) if !text.trim().is_empty() => {
                TokenSource::Text(text.trim().to_owned())
            }
            _ => TokenSource::None,
        };
        let tls = ClientFiles::new(
            file(&self.ca_file),
            file(&self.client_cert_file),
            file(&self.client_key_file),
        )?;
        Ok(Credentials::open(CredentialSettings {
            tls,
            token,
            allow_plaintext_token: self.allow_plaintext_token,
        })?)
    }
}
