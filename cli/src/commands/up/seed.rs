//! The samples of a first start: one document per `*.sample.json`, only into a store that never held anything.

use std::{fs, path::Path};

use anyhow::Context;
use contract::{CollectionName, DocumentId};
use serde::Deserialize;

use crate::client::{Api, Condition};

const SUFFIX: &str = ".sample.json";

/// Stores the samples, and says how many. A store where anything was ever written stays as it is.
pub(super) async fn seed(publisher: &Api, folder: &Path) -> anyhow::Result<usize> {
    let heads = publisher.heads().await?.heads;
    if heads.iter().any(|head| head.revision > 0) {
        return Ok(0);
    }
    // All are read before the first is written.
    let samples = samples(folder)?;
    for Sample { collection, id, json } in &samples {
        let stored = publisher.put_if(collection, id, json, Condition::Absent).await;
        stored.with_context(|| format!("{collection}{SUFFIX}"))?;
    }
    Ok(samples.len())
}

struct Sample {
    collection: CollectionName,
    id: DocumentId,
    json: Vec<u8>,
}

fn samples(folder: &Path) -> anyhow::Result<Vec<Sample>> {
    #[derive(Deserialize)]
    struct WithId {
        id: DocumentId,
    }
    let mut samples = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX)) else { continue };
        let sample = || -> anyhow::Result<Sample> {
            let json = fs::read(&path)?;
            let WithId { id } = serde_json::from_slice(&json)?;
            Ok(Sample { collection: name.parse()?, id, json })
        };
        samples.push(sample().with_context(|| format!("cannot use {}", path.display()))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::StandIn;

    #[tokio::test]
    async fn samples_are_stored_once() {
        let publisher = StandIn::start().await;
        let schemas = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas"));
        let first = seed(&publisher.api(), schemas).await.expect("seeded");
        assert_eq!((first, publisher.documents()), (6, 6));
        publisher.api().put_if(&name(), &id(), b"{}", Condition::Present).await.expect("a user's change");
        assert_eq!(seed(&publisher.api(), schemas).await.expect("left alone"), 0);
        assert_eq!(publisher.config("ChannelConfiguration", "whatsapp-es"), Some("{}".to_owned()));
    }

    fn name() -> CollectionName {
        "ChannelConfiguration".parse().expect("valid")
    }

    fn id() -> DocumentId {
        "whatsapp-es".parse().expect("valid")
    }
}
