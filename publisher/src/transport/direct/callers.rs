//! For whom events go to the URL of a subscriber: the callers that checked in with it, and what each of
//! them may still get. Rights end while a check-in still counts, so they are asked for before each event.
//!
//! Nothing here sends, and nothing here decides what a credential is worth.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use auth::{Authenticator, Refused, Session};
use contract::{
    CollectionName,
    access::{Identity, Right, Target},
    text::Escaped,
};
use tracing::info;

use crate::store::replicas::CheckInSource;

/// The callers of one URL.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Whether the settings name the URL: then no caller is needed.
    is_of_settings: bool,
    /// By name; empty for a row of an older publisher.
    callers: Mutex<BTreeMap<String, Caller>>,
    /// Whether an event was kept back since the last check-in, so that it is logged once.
    is_kept_back: AtomicBool,
}

/// What is known of a caller.
#[derive(Debug, Clone)]
struct Caller {
    /// The collections that it may get, as of its check-in; `None` for all.
    follows: Option<BTreeSet<CollectionName>>,
    /// What it presented, and when; `None` when it checked in with another publisher, or before this
    /// process was started.
    here: Option<(Arc<Session>, Instant)>,
}

impl Callers {
    /// Of a URL that the settings name.
    pub(super) fn of_settings() -> Self {
        Self {
            is_of_settings: true,
            ..Self::default()
        }
    }

    /// Whether the settings name the URL.
    pub(super) fn is_of_settings(&self) -> bool {
        self.is_of_settings
    }

    /// A caller checked in with this publisher.
    pub(super) fn checked_in(&self, source: &CheckInSource, session: &Arc<Session>) {
        let name = source.caller.clone().unwrap_or_default();
        let mut callers = self.lock();
        let known = callers.entry(name).or_insert_with(|| Caller::of(source));
        add_followed(&mut known.follows, source.follows.as_ref());
        known.here = Some((Arc::clone(session), Instant::now()));
        self.is_kept_back.store(false, Ordering::Relaxed);
    }

    /// Whether one of the callers checked in since then.
    pub(super) fn any_since(&self, then: Instant) -> bool {
        self.lock().values().any(|caller| caller.is_since(then))
    }

    /// These were the callers at that moment; one that checked in since stays as it is. The session of
    /// one that stays is kept.
    pub(super) fn replace(&self, sources: &[&CheckInSource], then: Instant) {
        let mut found = BTreeMap::<String, Caller>::new();
        for source in sources {
            let name = source.caller.clone().unwrap_or_default();
            match found.get_mut(&name) {
                Some(known) => add_followed(&mut known.follows, source.follows.as_ref()),
                None => {
                    found.insert(name, Caller::of(source));
                }
            }
        }
        let mut callers = self.lock();
        for (name, known) in std::mem::take(&mut *callers) {
            if known.is_since(then) {
                found.insert(name, known);
            } else if let Some(caller) = found.get_mut(&name) {
                caller.here = known.here;
            }
        }
        *callers = found;
    }

    /// Whether one of the callers may get events of a collection now.
    pub(super) async fn may_get(
        &self,
        collection: &CollectionName,
        authenticator: &Authenticator,
    ) -> bool {
        if self.is_of_settings {
            return true;
        }
        let callers: Vec<_> = {
            let callers = self.lock();
            let followed = callers.iter().filter(|(_name, caller)| {
                let follows = caller.follows.as_ref();
                follows.is_none_or(|names| names.contains(collection))
            });
            followed
                .map(|(name, caller)| {
                    let session = caller.here.as_ref().map(|(session, _when)| session.clone());
                    (name.clone(), session)
                })
                .collect()
        };
        let mut ended = None;
        for (name, session) in callers {
            if authenticator.is_open()
                || may_follow(authenticator, &name, session, collection).await
            {
                return true;
            }
            ended = Some(name);
        }
        if let Some(name) = ended
            && !self.is_kept_back.swap(true, Ordering::Relaxed)
        {
            info!(
                caller = %Escaped(&name), %collection,
                "events of {collection} no longer go to a subscriber: the credential of its caller {} \
                 has ended, or has other grants",
                Escaped(&name)
            );
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Caller>> {
        self.callers
            .lock()
            .expect("no holder of this lock can panic")
    }
}

impl Caller {
    fn of(source: &CheckInSource) -> Self {
        Self {
            follows: source.follows.clone(),
            here: None,
        }
    }

    fn is_since(&self, then: Instant) -> bool {
        let here = self.here.as_ref();
        here.is_some_and(|(_session, when)| *when >= then)
    }
}

/// Whether a caller may follow a collection now. That it is not known whether its credential is valid
/// ends nothing, as for a live feed.
async fn may_follow(
    authenticator: &Authenticator,
    name: &str,
    session: Option<Arc<Session>>,
    collection: &CollectionName,
) -> bool {
    let caller: Option<Result<Identity, Refused>> = match session {
        Some(session) => Some(session.check().await),
        // No credential is here: one of its name decides. A row of an older publisher has no name.
        None if name.is_empty() => None,
        None => authenticator.named(name),
    };
    match caller {
        Some(Ok(now)) => now.may(Right::Follow, Target::Collection(collection)),
        None | Some(Err(Refused::Unavailable(_))) => true,
        Some(Err(Refused::Missing | Refused::Invalid(_))) => false,
    }
}

/// Adds collections to those that may be sent; `None` stands for all.
fn add_followed(
    follows: &mut Option<BTreeSet<CollectionName>>,
    more: Option<&BTreeSet<CollectionName>>,
) {
    match (&mut *follows, more) {
        (Some(names), Some(more)) => names.extend(more.iter().cloned()),
        (_all, None) => *follows = None,
        (None, Some(_more)) => {}
    }
}

#[cfg(test)]
mod tests {
    use auth::{Presented, SecretToken, StoreTokens};
    use contract::{
        access::{Grant, Role},
        token::TokenRecord,
    };

    use super::*;

    const NAME: &str = "token:replica";

    fn record(token: &SecretToken, collections: &[&str]) -> TokenRecord {
        let names = collections.iter().map(|name| name.parse().expect("a name"));
        TokenRecord {
            id: token.hash().id(),
            name: "replica".parse().expect("a name"),
            hash: token.hash(),
            grants: vec![Grant {
                collections: Some(names.collect()),
                ..Grant::everywhere(Role::Replica)
            }],
            created_at: Default::default(),
            created_by: "here".to_owned(),
            expires_at: None,
            revoked_at: None,
        }
    }

    fn source(collections: &[&str]) -> CheckInSource {
        let names = collections.iter().map(|name| name.parse().expect("a name"));
        CheckInSource {
            caller: Some(NAME.to_owned()),
            follows: Some(names.collect()),
            ..CheckInSource::default()
        }
    }

    /// Which of the collections A and B may be sent.
    async fn sent(callers: &Callers, authenticator: &Authenticator) -> [bool; 2] {
        let may_get = async |name: &str| {
            let name = name.parse().expect("a name");
            callers.may_get(&name, authenticator).await
        };
        [may_get("A").await, may_get("B").await]
    }

    #[tokio::test]
    async fn a_caller_gets_events_for_as_long_as_its_credential_gives_them() {
        let authenticator = Arc::new(Authenticator::refusing());
        let tokens = StoreTokens::default();
        authenticator.use_store(tokens.clone());
        let token = SecretToken::generate();
        tokens.set([record(&token, &["A", "B"])]);
        let header = format!("Bearer {}", token.expose());
        let session = || {
            let presented = Presented {
                authorization: Some(&header),
                ..Presented::default()
            };
            Arc::new(Session::new(Arc::clone(&authenticator), presented))
        };
        // Here it checked in; another publisher has its name alone.
        let (here, elsewhere) = (Callers::default(), Callers::default());
        here.checked_in(&source(&["A", "B"]), &session());
        here.replace(&[&source(&["A", "B"])], Instant::now());
        elsewhere.replace(&[&source(&["A", "B"])], Instant::now());
        for callers in [&here, &elsewhere] {
            assert_eq!(sent(callers, &authenticator).await, [true, true]);
        }
        tokens.set([record(&token, &["A"])]);
        for callers in [&here, &elsewhere] {
            assert_eq!(sent(callers, &authenticator).await, [true, false]);
        }
        // It has ended, and another token has its name: only that one's holder gets events.
        tokens.set([record(&SecretToken::generate(), &["A", "B"])]);
        assert_eq!(sent(&here, &authenticator).await, [false, false]);
        tokens.set([]);
        for callers in [&here, &elsewhere] {
            assert_eq!(sent(callers, &authenticator).await, [false, false]);
        }
        let of_settings = Callers::of_settings();
        assert_eq!(sent(&of_settings, &authenticator).await, [true, true]);
    }

    #[tokio::test]
    async fn a_url_gets_events_of_the_collections_that_one_of_its_callers_may_follow() {
        let open = Arc::new(Authenticator::open());
        let session = Arc::new(Session::new(Arc::clone(&open), Presented::default()));
        let callers = Callers::default();
        callers.checked_in(&source(&["A"]), &session);
        assert_eq!(sent(&callers, &open).await, [true, false]);
        callers.checked_in(&source(&["B"]), &session);
        assert_eq!(sent(&callers, &open).await, [true, true]);
        // What the rows say now, and no more.
        callers.replace(&[&source(&["B"])], Instant::now());
        assert_eq!(sent(&callers, &open).await, [false, true]);
        // Rows that were read before a check-in do not undo it.
        let before = Instant::now();
        callers.checked_in(&source(&["A"]), &session);
        callers.replace(&[&source(&["B"])], before);
        assert_eq!(sent(&callers, &open).await, [true, true]);
        callers.replace(&[&source(&["B"]), &source(&["A"])], Instant::now());
        assert_eq!(sent(&callers, &open).await, [true, true]);
        let all = CheckInSource {
            follows: None,
            ..source(&[])
        };
        callers.replace(&[&source(&["B"]), &all], Instant::now());
        assert_eq!(sent(&callers, &open).await, [true, true]);
    }
}
