//! What is asked of a publisher, and what an answer has to be like to be used.

use std::collections::BTreeMap;

use contract::{
    CanonicalJson, CollectionName, DocumentId, Epoch, FeedPage, Head, Operation, Revision,
    feed::EVENT_STREAM,
    fleet::{CheckIn, CheckInAnswer},
    snapshot::{SETTLED, SnapshotLine, SnapshotStart},
};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use state::{InstallError, ReceivedChange, Root, Snapshot, snapshot::SnapshotBuilder};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

use super::{MAX_ANSWER, Origin, bytes, json};
use crate::{error::OriginError, list};

/// Longest line of a snapshot: the largest document that can be written, and its frame.
const MAX_LINE: usize = 5 * 1024 * 1024;
/// Longest list of an unversioned collection.
const MAX_LIST: usize = 256 * 1024 * 1024;

/// Where a delta goes on, by collection: every change up to that revision was taken from the feed.
pub(crate) type Cursor = BTreeMap<CollectionName, Revision>;

/// A page of the feed whose changes follow the cursor without a gap.
#[derive(Debug)]
pub(crate) struct Page {
    /// The changes, by collection contiguous and in order.
    pub(crate) changes: Vec<ReceivedChange>,
    /// Whether there is more to ask for.
    pub(crate) more: bool,
}

/// A proven snapshot.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The heads it belongs to.
    pub(crate) heads: Vec<Head>,
    /// The documents.
    pub(crate) snapshot: Snapshot,
    /// It comes from a publisher, so the heads say where the store stood when it was asked for.
    pub(crate) confirms: bool,
}

/// The body of a document.
#[cfg(feature = "redis")]
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    id: DocumentId,
    revision: Revision,
    crc: contract::Crc,
    config_data: CanonicalJson,
}

impl Origin {
    /// Says where this replica is, and hears where all collections stand. An answer that is behind
    /// what `root` had reached when it was asked for is refused: it comes from a publisher that
    /// reads an old copy, or from a store that was restored, and then the publisher has heard
    /// of it by this very check-in.
    pub(crate) async fn check_in(
        &self,
        root: &Root,
        report: &CheckIn,
        app_token: Option<&HeaderValue>,
    ) -> Result<CheckInAnswer, OriginError> {
        self.in_turn(|publisher| async move {
            let mut request = self
                .client
                .put(format!(
                    "{}/v1/replicas/{}",
                    publisher.base, report.instance
                ))
                .json(report);
            // Behind an invocation URL that header belongs to the sidecar.
            if let Some(token) = app_token.filter(|_token| !publisher.invoked) {
                request = request.header("dapr-api-token", token);
            }
            let answer: CheckInAnswer =
                json(publisher, self.send(publisher, request).await?).await?;
            admissible(root.epoch(), &answer.heads)?;
            check_heads(root, &answer.heads).map_err(|reason| publisher.unusable(reason))?;
            Ok(answer)
        })
        .await
    }

    /// The next changes after a cursor.
    pub(crate) async fn page(&self, cursor: &Cursor, epoch: Epoch) -> Result<Page, OriginError> {
        let since: Vec<_> = cursor
            .iter()
            .map(|(name, revision)| format!("{name}:{revision}"))
            .collect();
        let path = &format!("/v1/changes?since={}&epoch={epoch}", since.join(","));
        self.in_turn(|publisher| async move {
            let FeedPage::<ReceivedChange> { items, more, .. } =
                json(publisher, self.get(publisher, path).await?).await?;
            let mut reached = cursor.clone();
            let follows = |change: &ReceivedChange| {
                let at = reached.get_mut(&change.collection);
                at.is_some_and(|at| {
                    *at += 1;
                    (*at, epoch) == (change.revision, change.epoch) && intact(change)
                })
            };
            if !items.iter().all(follows) {
                return Err(
                    publisher.unusable("a page of the feed has a gap, or something damaged in it")
                );
            }
            if more && items.is_empty() {
                return Err(publisher.unusable("an empty page of the feed says that there is more"));
            }
            Ok(Page {
                changes: items,
                more,
            })
        })
        .await
    }

    /// All documents of the collections that `root` follows, proven complete, and the heads they
    /// belong to. Only a publisher's are where the store stands at that moment; another
    /// subscriber's tell that by its check-in alone.
    pub(crate) async fn snapshot(&self, root: &Root) -> Result<Loaded, OriginError> {
        let names: Vec<_> = root
            .collections()
            .map(|(name, _held)| name.as_str())
            .collect();
        let path = &format!("/v1/snapshot?collections={}", names.join(","));
        self.in_turn(|publisher| async move {
            let response = self.get(publisher, path).await?;
            let settled = response.headers().get(SETTLED);
            let confirms = settled.is_none();
            if settled.is_some_and(|settled| settled != "true") {
                return Err(publisher
                    .unusable("it holds changes beyond a gap: its snapshot is of no one moment"));
            }
            let body = StreamReader::new(response.bytes_stream().map_err(std::io::Error::other));
            let codec = LinesCodec::new_with_max_length(MAX_LINE);
            let mut lines = FramedRead::new(body, codec).map_err(|error| publisher.unusable(error));

            let cut = || publisher.unusable("the snapshot ends before its end line");
            let first = lines.next().await.ok_or_else(cut)??;
            let start: SnapshotStart =
                serde_json::from_str(&first).map_err(|error| publisher.unusable(error))?;
            admissible(root.epoch(), &start.heads)?;
            check_heads(root, &start.heads).map_err(|reason| publisher.unusable(reason))?;
            let heads = start.heads.clone();
            let mut builder: SnapshotBuilder = Snapshot::begin(start);
            while let Some(line) = lines.next().await {
                match SnapshotLine::parse(line?.as_bytes())
                    .map_err(|error| publisher.unusable(error))?
                {
                    SnapshotLine::Item(item) => builder
                        .item(item, root)
                        .map_err(|error| publisher.unusable(error))?,
                    SnapshotLine::End(end) => {
                        let snapshot = builder
                            .complete(&end, root)
                            .map_err(|error| publisher.unusable(error))?;
                        return Ok(Loaded {
                            heads,
                            snapshot,
                            confirms,
                        });
                    }
                }
            }
            Err(cut())
        })
        .await
    }

    /// The live feed after a place.
    pub(crate) async fn live(
        &self,
        since: &Cursor,
        epoch: Epoch,
    ) -> Result<reqwest::Response, OriginError> {
        let since: Vec<_> = since
            .iter()
            .map(|(name, revision)| format!("{name}:{revision}"))
            .collect();
        let path = &format!("/v1/changes?since={}&epoch={epoch}", since.join(","));
        self.in_turn(|publisher| async move {
            let request = self
                .streams
                .get(format!("{}{path}", publisher.base))
                .header(ACCEPT, EVENT_STREAM);
            let answer = self.send(publisher, request).await?;
            let kind = answer
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|kind| kind.to_str().ok())
                .unwrap_or_default();
            if !kind.starts_with(EVENT_STREAM) {
                return Err(publisher.unusable("it has no live feed"));
            }
            Ok(answer)
        })
        .await
    }

    /// One record of the change log.
    pub(crate) async fn record(
        &self,
        collection: &CollectionName,
        epoch: Epoch,
        revision: Revision,
    ) -> Result<ReceivedChange, OriginError> {
        let since = revision.saturating_sub(1);
        let path =
            &format!("/v1/collections/{collection}/changes?since={since}&limit=1&epoch={epoch}");
        self.in_turn(|publisher| async move {
            let response = self.get(publisher, path).await?;
            let FeedPage::<ReceivedChange> { items, .. } = json(publisher, response).await?;
            let record = items.into_iter().next().filter(|change| {
                let place = (&change.collection, change.epoch, change.revision);
                place == (collection, epoch, revision) && intact(change)
            });
            record
                .ok_or_else(|| publisher.unusable(format!("it is not revision {revision}, intact")))
        })
        .await
    }

    /// One document of an unversioned collection (requirement A17: `GetById`).
    pub(crate) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<CanonicalJson, OriginError> {
        let path = &format!("/v1/collections/{collection}/documents/{id}");
        self.in_turn(|publisher| async move {
            let body = bytes(publisher, self.get(publisher, path).await?, MAX_ANSWER).await?;
            match list::record(&body).map_err(|error| publisher.unusable(error))? {
                (Some(other), _config) if other != *id => {
                    Err(publisher.unusable("it is another document"))
                }
                (_same, config) => Ok(config),
            }
        })
        .await
    }

    /// One document of a versioned collection, or that there is none, after the head of the
    /// collection. Another store, or a history that was left, is not taken; nor is one that is
    /// behind what was `seen`.
    #[cfg(feature = "redis")]
    pub(crate) async fn held(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        seen: Option<(Epoch, Revision)>,
    ) -> Result<(Head, Option<contract::Document>), OriginError> {
        let path = &format!("/v1/collections/{collection}");
        self.in_turn(|publisher| async move {
            let head: Head = json(publisher, self.get(publisher, path).await?).await?;
            admissible(
                seen.map(|(epoch, _seen)| epoch),
                std::slice::from_ref(&head),
            )?;
            if seen.is_some_and(|(epoch, seen)| epoch == head.epoch && head.revision < seen) {
                return Err(publisher.unusable("it is behind what was seen here"));
            }
            let response = match self.get(publisher, &format!("{path}/documents/{id}")).await {
                Err(OriginError::NoDocument { .. }) => return Ok((head, None)),
                response => response?,
            };
            let Body {
                id: answered,
                revision,
                crc,
                config_data,
            } = json(publisher, response).await?;
            if answered != *id || config_data.crc() != crc {
                return Err(publisher.unusable("it is another document, or damaged"));
            }
            Ok((
                head,
                Some(contract::Document::new(answered, revision, &config_data)),
            ))
        })
        .await
    }

    /// All documents of an unversioned collection (requirement A17: `GetAll`).
    pub(crate) async fn documents(
        &self,
        collection: &CollectionName,
    ) -> Result<Vec<(DocumentId, CanonicalJson)>, OriginError> {
        let path = &format!("/v1/collections/{collection}/documents");
        self.in_turn(|publisher| async move {
            let body = bytes(publisher, self.get(publisher, path).await?, MAX_LIST).await?;
            list::records(&body).map_err(|error| publisher.unusable(error))
        })
        .await
    }
}

/// Heads of every followed collection, none of them behind what is held.
fn check_heads(root: &Root, heads: &[Head]) -> Result<(), String> {
    for (name, held) in root.collections() {
        let Some(head) = heads.iter().find(|head| head.collection == *name) else {
            return Err(format!("{name} is not in it"));
        };
        if Some(head.epoch) == root.epoch() && head.revision < held.watermark() {
            return Err(format!(
                "{name} is at {} there, and at {} here",
                head.revision,
                held.watermark()
            ));
        }
    }
    Ok(())
}

/// Whether a record has the value that its operation says. One whose checksum does not hold was not
/// taken.
fn intact(change: &ReceivedChange) -> bool {
    (change.op == Operation::Delete) == change.config.is_none()
}

/// NeverEmpty, before anything is loaded: another store, or a history that was left, offers
/// nothing. The next publisher may.
fn admissible(ours: Option<Epoch>, heads: &[Head]) -> Result<(), OriginError> {
    let Some(ours) = ours else { return Ok(()) };
    match heads
        .iter()
        .map(|head| head.epoch)
        .find(|epoch| *epoch != ours)
    {
        Some(theirs) if theirs.lineage != ours.lineage => {
            Err(InstallError::OtherStore(theirs).into())
        }
        Some(theirs) if theirs.counter < ours.counter => {
            Err(InstallError::OlderEpoch(theirs).into())
        }
        _ => Ok(()),
    }
}
