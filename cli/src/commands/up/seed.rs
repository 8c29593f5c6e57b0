//! The samples of a first start: one document per `*.sample.json`, only into a store in which nothing
//! was ever written. They are one change set, so if a process is killed meanwhile, either all of
//! them are stored or none, and then the next start stores them.

use std::{fs, path::Path};

use anyhow::Context;
use client::{ClientError, Endpoint};
use contract::{
    CanonicalJson, DocumentId,
    set::{ChangeRequest, ChangeSetRequest, RequestOperation},
};
use serde::Deserialize;

use crate::input;

const SUFFIX: &str = ".sample.json";

/// Stores the samples, and gives their number. A store in which anything was ever written is not
/// changed.
pub(super) async fn seed(publisher: &Endpoint, folder: &Path) -> anyhow::Result<usize> {
    let heads = publisher.heads().await?;
    // Also a deleted document leaves a revision, so deleted samples do not come back.
    if heads.iter().any(|head| head.revision > 0) {
        return Ok(0);
    }
    let request = ChangeSetRequest {
        changes: samples(folder)?,
    };
    if request.changes.is_empty() {
        return Ok(0);
    }
    match publisher.write_change_set(&request).await {
        Ok(written) => Ok(written.items.len()),
        Err(error) => Err(with_file(publisher, error, &request)),
    }
}

/// The error with the file at fault, if it is about one.
fn with_file(
    publisher: &Endpoint,
    error: ClientError,
    request: &ChangeSetRequest,
) -> anyhow::Error {
    let index = error.problem().and_then(|problem| problem.index);
    let sample = index.and_then(|index| request.changes.get(index));
    let error = crate::commands::explained(publisher, error, "POST /v1/changes");
    match sample {
        Some(sample) => error.context(format!("{}{SUFFIX}", sample.collection)),
        None => error,
    }
}

fn samples(folder: &Path) -> anyhow::Result<Vec<ChangeRequest>> {
    #[derive(Deserialize)]
    struct WithId {
        id: DocumentId,
    }
    let mut samples = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(SUFFIX))
        else {
            continue;
        };
        let sample = || -> anyhow::Result<ChangeRequest> {
            let json = input::object_now(&path)?;
            let WithId { id } = serde_json::from_str(&json)?;
            let config_data = Some(CanonicalJson::parse(json.as_bytes())?);
            Ok(ChangeRequest {
                collection: name.parse()?,
                op: RequestOperation::Create,
                id,
                config_data,
                expected: contract::Expected::Any,
            })
        };
        samples.push(sample().with_context(|| format!("cannot use {}", path.display()))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::FakePublisher;

    const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas");

    #[tokio::test]
    async fn samples_are_stored_once() {
        let publisher = FakePublisher::start().await;
        let first = seed(&publisher.endpoint(), Path::new(SCHEMAS))
            .await
            .expect("seeded");
        assert_eq!((first, publisher.documents()), (6, 6));
        let name = "ChannelConfiguration".parse().expect("valid");
        let id = "whatsapp-es".parse().expect("valid");
        publisher
            .endpoint()
            .put(&name, &id, b"{}", &contract::Expected::Any)
            .await
            .expect("a change by a user");
        assert_eq!(
            seed(&publisher.endpoint(), Path::new(SCHEMAS))
                .await
                .expect("not changed"),
            0
        );
        assert_eq!(
            publisher.config("ChannelConfiguration", "whatsapp-es"),
            Some("{}".to_owned())
        );
    }

    #[tokio::test]
    async fn a_refused_sample_leaves_none_stored() {
        let publisher = FakePublisher::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, id) in [("A", "a"), ("B", "refused"), ("C", "c")] {
            let json = format!(r#"{{"id":"{id}"}}"#);
            fs::write(folder.path().join(format!("{name}{SUFFIX}")), json).expect("written");
        }
        let error = seed(&publisher.endpoint(), folder.path())
            .await
            .expect_err("refused");
        assert!(
            format!("{error:#}")
                .starts_with("B.sample.json: The schema of the collection refuses the document"),
            "{error:#}"
        );
        assert_eq!(publisher.documents(), 0);
    }

    #[tokio::test]
    async fn nothing_to_store_sends_nothing() {
        let publisher = FakePublisher::start().await;
        publisher.refuses_change_sets();
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(
            seed(&publisher.endpoint(), folder.path())
                .await
                .expect("nothing to do"),
            0
        );
    }

    #[tokio::test]
    async fn a_publisher_without_change_sets_gives_a_clear_error() {
        let publisher = FakePublisher::start().await;
        publisher.refuses_change_sets();
        let error = seed(&publisher.endpoint(), Path::new(SCHEMAS))
            .await
            .expect_err("too old");
        assert!(
            error
                .to_string()
                .contains("which a publisher of this version has"),
            "{error:#}"
        );
        assert_eq!(publisher.documents(), 0);
    }
}
