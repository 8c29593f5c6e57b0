//! Tokens, keys, certificates and Secrets as an operator makes them.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, ensure};
use client::{ClientFiles, CredentialSettings, Credentials, Endpoint, Timeouts, TokenSource};
use e2e::testbed::{dependencies::own_program, redis::certificates::Certificates};
use serde_json::Value;

use super::pod::{Pod, Sources};
use crate::manifests::{text, the};

/// What an operator makes before the manifests are applied, with the commands of the documents.
pub(super) struct Made<'a> {
    folder: &'a Path,
    certificates: Certificates,
}

impl<'a> Made<'a> {
    pub(super) fn new(folder: &'a Path) -> anyhow::Result<Self> {
        let made = Self {
            folder,
            certificates: Certificates::make(folder)?,
        };
        for (name, roles) in [
            ("ops", ["operator", "publisher"].as_slice()),
            ("replicas", &["replica"]),
        ] {
            let mut arguments = vec!["token", "create", "--offline", "--name", name];
            arguments.extend(roles.iter().flat_map(|role| ["--role", role]));
            arguments.extend(["--expires", "never", "--record-file", "tokens"]);
            std::fs::write(
                folder.join(format!("{name}.token")),
                made.output(Command::new(own_program("confcast")?).args(arguments))?,
            )?;
        }
        made.output(Command::new(own_program("confcast")?).args(["keys", "create", "keys"]))?;
        Ok(made)
    }

    fn output(&self, command: &mut Command) -> anyhow::Result<Vec<u8>> {
        let output = command.current_dir(self.folder).output()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
        Ok(output.stdout)
    }

    fn file(&self, path: impl AsRef<Path>) -> anyhow::Result<String> {
        let path = self.folder.join(path);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// All Secrets and `ConfigMap`s of the namespace: name, then key, then content.
    pub(super) fn sources(&self, objects: &[Value]) -> anyhow::Result<Sources> {
        let tls = [
            ("tls.crt", self.file(&self.certificates.certificate)?),
            ("tls.key", self.file(&self.certificates.key)?),
            ("ca.crt", self.file(&self.certificates.authority)?),
        ];
        let store = format!("file:{}", self.folder.join("data").display());
        let signing = self.file("keys/signing-key.pem")?;
        let mut sources: Sources = [
            ("confcast-store", vec![("url", store)]),
            ("confcast-dapr-api", vec![("token", "api-token".to_owned())]),
            ("confcast-dapr-app", vec![("token", "app-token".to_owned())]),
            ("confcast-tokens", vec![("tokens", self.file("tokens")?)]),
            (
                "confcast-subscriber-token",
                vec![("token", self.file("replicas.token")?)],
            ),
            ("confcast-publisher-tls", tls.to_vec()),
            ("confcast-subscriber-tls", tls.to_vec()),
            ("confcast-signing-key", vec![("signing-key.pem", signing)]),
            (
                "confcast-event-keys",
                vec![("event-keys.pem", self.file("keys/event-keys.pem")?)],
            ),
        ]
        .into_iter()
        .map(|(name, files)| {
            let files = files.into_iter().map(|(key, text)| (key.to_owned(), text));
            (name.to_owned(), files.collect::<BTreeMap<_, _>>())
        })
        .collect();
        let settings = the(objects, "ConfigMap", None)?;
        let literals: BTreeMap<String, String> = serde_json::from_value(settings["data"].clone())?;
        sources.insert(text(settings, "/metadata/name")?.to_owned(), literals);
        Ok(sources)
    }

    /// A client of a pod, as it is reached from another one.
    pub(super) fn endpoint(&self, pod: &Pod, token: &Path) -> anyhow::Result<Endpoint> {
        let credentials = Credentials::open(CredentialSettings {
            tls: ClientFiles {
                ca: Some(self.certificates.authority.clone()),
                identity: None,
            },
            token: TokenSource::File(token.to_owned()),
            allow_plaintext_token: true,
        })?;
        Ok(Endpoint::with_credentials(
            &pod.url().parse()?,
            Timeouts::TEST,
            &credentials,
        )?)
    }
}
