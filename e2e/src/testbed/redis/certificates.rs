//! A server certificate for the loopback address, and the authority that signed it, which no system
//! trusts.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::ensure;

use crate::testbed::dependencies;

/// The files, all in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The certificate of the authority, which a client has to trust.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
}

impl Certificates {
    /// Creates the files in a folder.
    ///
    /// # Errors
    /// When openssl fails.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let file = |name: &str| folder.join(name);
        let made = Self {
            authority: file("ca.crt"),
            certificate: file("server.crt"),
            key: file("server.key"),
        };
        let authority_key = file("ca.key");
        issue(
            &made.authority,
            &authority_key,
            "a test's authority",
            "keyUsage=critical,keyCertSign",
            None,
        )?;
        // 0.0.0.0 leads to this host as well, and is no loopback address for the programs.
        let names = "subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:localhost";
        issue(
            &made.certificate,
            &made.key,
            "localhost",
            names,
            Some((&made.authority, &authority_key)),
        )?;
        Ok(made)
    }
}

/// Creates one certificate with its own key, signed by itself or by an authority.
fn issue(
    certificate: &Path,
    key: &Path,
    name: &str,
    extension: &str,
    authority: Option<(&Path, &Path)>,
) -> anyhow::Result<()> {
    let mut command = Command::new(dependencies::path_of("OPENSSL")?);
    command.args([
        "req",
        "-x509",
        "-noenc",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-days",
        "2",
    ]);
    command.args(["-subj", &format!("/CN={name}"), "-addext", extension]);
    command.arg("-out").arg(certificate).arg("-keyout").arg(key);
    if let Some((authority, authority_key)) = authority {
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        command
            .arg("-CA")
            .arg(authority)
            .arg("-CAkey")
            .arg(authority_key);
    }
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
