//! The samples of a first start: one document per `*.sample.json`, only into a store that never
//! held anything. They are one change set, so whatever is killed meanwhile, all of them are there
//! afterwards or none, and then the next start stores them.

use std::{fs, path::Path};

use anyhow::Context;
use contract::{
    CanonicalJson, DocumentId,
    set::{ChangeRequest, ChangeSetRequest, ChangeSetWritten, RequestOperation},
};
use serde::Deserialize;

use crate::client::{Api, Refused};

const SUFFIX: &str = ".sample.json";

/// Stores the samples, and says how many. A store where anything was ever written stays as it is.
pub(super) async fn seed(publisher: &Api, folder: &Path) -> anyhow::Result<usize> {
    let heads = publisher.heads().await?.heads;
    if heads.iter().any(|head| head.revision > 0) {
        return Ok(0);
    }
    let request = ChangeSetRequest {
        changes: samples(folder)?,
    };
    if request.changes.is_empty() {
        return Ok(0);
    }
    let done: ChangeSetWritten = publisher
        .post("/v1/changes", &request)
        .await
        .map_err(|error| in_file(error, &request))?;
    Ok(done.items.len())
}

/// The same error, with the file at fault if it is about one.
fn in_file(error: anyhow::Error, request: &ChangeSetRequest) -> anyhow::Error {
    let index = error
        .downcast_ref::<Refused>()
        .and_then(|refused| refused.problem.as_ref()?.index);
    match index.and_then(|index| request.changes.get(index)) {
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
            let json = fs::read(&path)?;
            let WithId { id } = serde_json::from_slice(&json)?;
            let config_data = Some(CanonicalJson::parse(&json)?);
            Ok(ChangeRequest {
                collection: name.parse()?,
                op: RequestOperation::Create,
                id,
                config_data,
                expected: None,
            })
        };
        samples.push(sample().with_context(|| format!("cannot use {}", path.display()))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Condition, stand_in::StandIn};

    const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas");

    #[tokio::test]
    async fn samples_are_stored_once() {
        let publisher = StandIn::start().await;
        let first = seed(&publisher.api(), Path::new(SCHEMAS))
            .await
            .expect("seeded");
        assert_eq!((first, publisher.documents()), (6, 6));
        let (name, id) = (
            "ChannelConfiguration".parse().expect("valid"),
            "whatsapp-es".parse().expect("valid"),
        );
        publisher
            .api()
            .put_if(&name, &id, b"{}", Condition::Present)
            .await
            .expect("a user's change");
        assert_eq!(
            seed(&publisher.api(), Path::new(SCHEMAS))
                .await
                .expect("left alone"),
            0
        );
        assert_eq!(
            publisher.config("ChannelConfiguration", "whatsapp-es"),
            Some("{}".to_owned())
        );
    }

    #[tokio::test]
    async fn one_that_is_refused_leaves_none() {
        let publisher = StandIn::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, id) in [("A", "a"), ("B", "refused"), ("C", "c")] {
            let json = format!(r#"{{"id":"{id}"}}"#);
            fs::write(folder.path().join(format!("{name}{SUFFIX}")), json).expect("written");
        }
        let error = seed(&publisher.api(), folder.path())
            .await
            .expect_err("refused");
        assert!(
            format!("{error:#}").starts_with("B.sample.json: The schema refuses it"),
            "{error:#}"
        );
        assert_eq!(publisher.documents(), 0);
    }

    #[tokio::test]
    async fn nothing_to_store_asks_nothing() {
        let publisher = StandIn::start().await;
        publisher.takes_no_sets();
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(
            seed(&publisher.api(), folder.path())
                .await
                .expect("nothing to do"),
            0
        );
    }

    #[tokio::test]
    async fn a_publisher_without_change_sets_is_told_plainly() {
        let publisher = StandIn::start().await;
        publisher.takes_no_sets();
        let error = seed(&publisher.api(), Path::new(SCHEMAS))
            .await
            .expect_err("too old");
        assert!(
            error
                .to_string()
                .contains("is older than this confcast, or no publisher"),
            "{error:#}"
        );
        assert_eq!(publisher.documents(), 0);
    }
}
