//! What both protocols share: which documents a caller asks for and may read, the values that are held
//! now, and the subscriptions.
//!
//! A store is a collection, a key is the id of a document. Nothing here knows a protocol, and nothing
//! decides which change follows which.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{
    CollectionName, DocumentId,
    access::{Right, Target},
    text::Escaped,
};
use prost::Message;
use replica::{Replica, View};
use service::http::stream_slots::{SlotUse, StreamSlot, StreamSlots};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    access::{Access, Caller},
    answers::Answers,
    budget::{Budget, Reserved},
    changes::{Batch, Changes, Keys, item},
    error::ApiError,
    message::{Item, Items, KeysRequest, UnsubscribeResponse},
};

/// Most keys of one request.
pub(crate) const MAX_KEYS: usize = 1_000;
/// Most bytes of one answer: what clients of gRPC take unless they are told otherwise (4 MiB), and a
/// place for the frame.
pub(crate) const MAX_ANSWER: usize = (4 << 20) - 1_024;
/// Most bytes of all messages over gRPC that their readers have not taken yet.
const STREAM_BYTES: u32 = 64 << 20;
/// How long a call waits for the first load: an application and its subscriber start together.
const LOADING: Duration = Duration::from_secs(5);

/// The configuration as both protocols serve it. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Api(Arc<Parts>);

struct Parts {
    replica: Replica,
    access: Access,
    streams: StreamSlots,
    answers: Answers,
    stream_budget: Budget,
    subscriptions: Mutex<HashMap<String, CancellationToken>>,
}

/// What a caller asks for, and may read.
pub(crate) struct Selection {
    name: CollectionName,
    keys: Keys,
}

/// A subscription. Dropping it ends it.
pub(crate) struct Subscription {
    pub(crate) id: String,
    /// What it sends.
    pub(crate) messages: Messages,
    /// Cancelled by the call that ends it.
    pub(crate) cancelled: CancellationToken,
    /// Its share of the limit of live streams.
    pub(crate) slot: StreamSlot,
    api: Api,
}

impl Api {
    pub(crate) fn new(replica: Replica, access: Access, streams: StreamSlots) -> Self {
        let stream_budget = Budget::new(STREAM_BYTES);
        Self(Arc::new(Parts {
            replica,
            access,
            streams,
            answers: Answers::new(stream_budget.clone()),
            stream_budget,
            subscriptions: Mutex::default(),
        }))
    }

    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// The answers with values on their way.
    pub(crate) fn answers(&self) -> &Answers {
        &self.0.answers
    }

    /// The memory for messages of subscriptions over gRPC.
    pub(crate) fn stream_budget(&self) -> Budget {
        self.0.stream_budget.clone()
    }

    /// What a request selects, once it is known whether the collection exists.
    pub(crate) async fn select(
        &self,
        caller: &Caller,
        request: &KeysRequest,
    ) -> Result<Selection, ApiError> {
        let unknown = || ApiError::UnknownStore(shortened(&request.store_name));
        if request.keys.len() > MAX_KEYS {
            let reason = format!("more than {MAX_KEYS} keys; none asks for all of the store");
            return Err(ApiError::BadRequest(reason));
        }
        let keys = request.keys.iter().map(|key| {
            key.parse::<DocumentId>().map_err(|error| {
                let key = Escaped(shortened(key)).to_string();
                ApiError::BadRequest(format!("the key {key} is no id of a document: {error}"))
            })
        });
        let keys = keys.collect::<Result<BTreeSet<_>, _>>()?;
        let allowed = |target: Target<'_>| {
            let required = caller.identity.require(Right::Read, target);
            required.map_err(|missing| ApiError::Forbidden(missing.to_string()))
        };
        // A caller that may not read everything learns the same of what is not there.
        let Ok(name) = request.store_name.parse::<CollectionName>() else {
            allowed(Target::Service)?;
            return Err(unknown());
        };
        if keys.is_empty() {
            allowed(Target::Collection(&name))?;
        }
        for key in &keys {
            allowed(Target::Document(&name, key))?;
        }
        let found = timeout(LOADING, self.until_known(&name));
        match found.await {
            Ok(true) => {}
            Ok(false) => return Err(unknown()),
            Err(_elapsed) => return Err(ApiError::Loading),
        }
        Ok(Selection {
            name,
            keys: if keys.is_empty() {
                Keys::All
            } else {
                Keys::These(keys)
            },
        })
    }

    /// Waits until it is known whether a collection exists.
    async fn until_known(&self, name: &CollectionName) -> bool {
        let mut changed = self.0.replica.view_changed();
        loop {
            changed.mark_unchanged();
            if let Some(known) = is_known(&self.0.replica.view(), name) {
                return known;
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    /// The values that are held now, of one moment.
    pub(crate) fn values(&self, selection: &Selection) -> Result<Items, ApiError> {
        let view = self.0.replica.view();
        let Some(held) = view.root().collection(&selection.name) else {
            return Err(ApiError::UnknownStore(selection.name.to_string()));
        };
        let epoch = view.root().epoch();
        let state = view.state_of(&selection.name, Instant::now());
        let mut items = Items::new();
        let mut bytes = 0;
        let mut add = |document: &contract::Document| {
            let item = item(document, epoch, state);
            bytes += size_of(document.id(), &item);
            items.insert(document.id().to_string(), item);
            if bytes > MAX_ANSWER {
                return Err(ApiError::TooLarge(format!(
                    "the values of {} do not fit into one answer of {MAX_ANSWER} bytes: ask for some of \
                     the keys, or subscribe, which sends several messages",
                    selection.name
                )));
            }
            Ok(())
        };
        match &selection.keys {
            Keys::All => held.documents().try_for_each(&mut add)?,
            Keys::These(keys) => keys
                .iter()
                .filter_map(|key| held.get(key))
                .try_for_each(&mut add)?,
        }
        Ok(items)
    }

    /// Begins a subscription, whose messages take their memory from a budget.
    pub(crate) fn subscribe(
        &self,
        caller: &Caller,
        selection: Selection,
        budget: Budget,
    ) -> Result<Subscription, ApiError> {
        let slot = self.0.streams.open(caller.source.clone(), SlotUse::Stream);
        let slot = slot.map_err(|full| ApiError::Busy(full.problem().detail.clone()))?;
        let id = Uuid::new_v4().to_string();
        let cancelled = CancellationToken::new();
        self.subscriptions().insert(id.clone(), cancelled.clone());
        let Selection { name, keys } = selection;
        Ok(Subscription {
            id,
            messages: Messages {
                changes: Changes::new(self.0.replica.clone(), name, keys),
                budget,
            },
            cancelled,
            slot,
            api: self.clone(),
        })
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&self, id: &str) -> UnsubscribeResponse {
        let found = self.subscriptions().remove(id);
        if let Some(cancelled) = found {
            cancelled.cancel();
            return UnsubscribeResponse {
                ok: true,
                message: String::new(),
            };
        }
        let id = Escaped(shortened(id)).to_string();
        UnsubscribeResponse {
            ok: false,
            message: format!(
                "failed to unsubscribe to configuration request {id}: subscription does not exist"
            ),
        }
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        let locked = self.0.subscriptions.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a subscription sends, within a budget.
pub(crate) struct Messages {
    changes: Changes,
    budget: Budget,
}

impl Messages {
    /// The next batch and its memory, as soon as there are both; `None` when the replica has ended. Where
    /// the call is dropped, the subscription has to end: a batch may be lost.
    pub(crate) async fn next(&mut self) -> Option<(Batch, Reserved)> {
        loop {
            self.changes.ready().await?;
            let turn = self.budget.turn().await;
            if let Some(batch) = self.changes.batch() {
                let sizes = batch.iter().map(|(id, item)| size_of(id, item));
                let bytes = sizes.sum();
                return Some((batch, turn.reserve(bytes).await));
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.api.subscriptions().remove(&self.id);
    }
}

/// Bytes of a value in a message: the key, the item, and what stands in front of each.
fn size_of(id: &DocumentId, item: &Item) -> usize {
    id.as_str().len() + item.encoded_len() + 20
}

/// Whether a collection exists; `None` while that is not known.
fn is_known(view: &View, name: &CollectionName) -> Option<bool> {
    if view.loaded_of(name) {
        return Some(true);
    }
    let is_joining = view
        .root()
        .collection(name)
        .is_some_and(|held| held.joining());
    (view.loaded_as_served() && !is_joining).then_some(false)
}

/// A text of a caller, short enough to be repeated.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
