//! The subscribers that events are posted to, and what is known of each: its routes, and whether it
//! takes events. Nothing here sends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use auth::{Authenticator, Session};
use contract::{CollectionName, SecretUrl, sidecar::Subscription};
use reqwest::Url;
use tracing::info;

use super::{
    breaker::CircuitBreaker,
    callers::Callers,
    trust::{Peer, Refusal, SubscriberToken, Trust},
};
use crate::store::replicas::CheckInSource;

/// Subscribers that are known by their check-in alone, where no setting says how many.
const MAX_FOUND: usize = 256;
/// How long routes are used. A subscriber that was restarted may have other subscriptions, and
/// does not report it.
const ROUTES_LIFETIME: Duration = Duration::from_secs(10);

/// The known subscribers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct SubscriberRegistry {
    known: Arc<RwLock<Known>>,
    trust: Arc<Trust>,
    /// Decides whether the caller of a check-in may still get events.
    authenticator: Arc<Authenticator>,
    /// Most subscribers that are known by their check-in alone.
    max_found: usize,
    /// Live subscribers that are refused, so that each is reported once.
    refused: Arc<Mutex<BTreeSet<SecretUrl>>>,
}

#[derive(Debug)]
struct Known {
    /// The subscribers of the settings, then those that checked in.
    all: Vec<Arc<Subscriber>>,
    /// How many of them are of the settings; they are never removed.
    configured: usize,
}

impl SubscriberRegistry {
    /// The subscribers of the settings; the hosts besides loopback from which others may check in
    /// (`host` or `host:port`, in lower case); the token that all of them expect; and what is asked for
    /// the credentials of callers before events go to them.
    pub fn new(
        configured: Vec<SecretUrl>,
        allowed: BTreeSet<String>,
        token: Option<SubscriberToken>,
        authenticator: Arc<Authenticator>,
    ) -> Self {
        let all: Vec<_> = configured
            .into_iter()
            .map(|base| Arc::new(Subscriber::new(base, Callers::of_settings())))
            .collect();
        let known = Known {
            configured: all.len(),
            all,
        };
        Self {
            known: Arc::new(RwLock::new(known)),
            trust: Arc::new(Trust::new(allowed, token)),
            refused: Arc::default(),
            authenticator,
            max_found: MAX_FOUND,
        }
    }

    /// The same, with at most so many subscribers that are known by their check-in alone.
    #[must_use]
    pub fn at_most(mut self, max_found: usize) -> Self {
        self.max_found = max_found;
        self
    }

    /// What the store keeps about the caller of a check-in, so that every publisher can decide
    /// whether events go to it.
    pub fn identify(&self, peer: Peer<'_>) -> CheckInSource {
        self.trust.identify(peer)
    }

    /// Adds a subscriber that just checked in with this session, if it is trusted. `boot_id` names the
    /// run of its process.
    pub fn add(&self, base: Url, source: &CheckInSource, session: &Arc<Session>, boot_id: &str) {
        if self.trust.covers(&base, source) {
            let subscriber = self.insert(base.into(), "checked in and gets events");
            if let Some(subscriber) = subscriber {
                subscriber.callers.checked_in(source, session);
                subscriber.is_run(boot_id);
            }
        }
    }

    /// Whether events of a collection may go to a subscriber now: one that the settings name, or of
    /// which a caller has a valid credential and may follow the collection.
    pub(super) async fn may_send(
        &self,
        subscriber: &Subscriber,
        collection: &CollectionName,
    ) -> bool {
        let callers = &subscriber.callers;
        callers.may_get(collection, &self.authenticator).await
    }

    /// Replaces the subscribers that checked in by these, as far as they are trusted. What is known
    /// of one that stays is kept. `then` is a moment before the list was read: a subscriber that
    /// checked in since is not in it, and stays.
    pub fn replace<'a>(
        &self,
        found: impl Iterator<Item = (Url, &'a CheckInSource)>,
        then: Instant,
    ) {
        let trusted = found.filter(|(base, source)| self.trust.covers(base, source));
        // Several replicas may name one URL: it gets what one of them may follow.
        let mut found = BTreeMap::<_, Vec<&CheckInSource>>::new();
        for (base, source) in trusted {
            found.entry(SecretUrl::from(base)).or_default().push(source);
        }
        {
            let mut known = self
                .known
                .write()
                .expect("no holder of this lock can panic");
            let removable = known.configured..;
            let mut index = 0..;
            // Kept in place and not rebuilt, so that a subscriber keeps its breaker and its routes.
            known.all.retain(|subscriber| {
                let is_removable = index.next().is_some_and(|index| removable.contains(&index));
                let stays = !is_removable
                    || found.contains_key(&subscriber.base)
                    || subscriber.callers.any_since(then);
                if !stays {
                    info!(
                        ?subscriber,
                        "the subscriber no longer checks in and gets no more events"
                    );
                }
                stays
            });
        }
        for (base, sources) in found {
            let subscriber = self.insert(base, "is in the store and gets events");
            if let Some(subscriber) = subscriber {
                subscriber.callers.replace(&sources, then);
            }
        }
    }

    /// A line for each of these live subscribers that gets no events here, and was not among those of
    /// the call before.
    pub fn newly_refused<'a>(
        &self,
        found: impl Iterator<Item = (Url, &'a CheckInSource)>,
    ) -> Vec<String> {
        let known = self.all();
        let mut lines = Vec::new();
        let mut refused = BTreeSet::new();
        let mut before = self.refused.lock().expect("no holder of this lock panics");
        for (base, source) in found {
            let refusal = match self.trust.refusal(&base, source) {
                // Another publisher posts to it.
                None | Some(Refusal::OtherLoopback) => continue,
                Some(refusal) => refusal,
            };
            let base = SecretUrl::from(base);
            // The settings name it.
            if known.iter().any(|subscriber| subscriber.base == base) {
                continue;
            }
            if !before.contains(&base) && !refused.contains(&base) {
                let subscriber = Subscriber::new(base.clone(), Callers::default());
                lines.push(format!(
                    "the subscriber {subscriber:?} checks in and gets no events of this publisher: \
                     {refusal}. Changes reach it with its check-ins"
                ));
            }
            refused.insert(base);
        }
        *before = refused;
        lines
    }

    /// Why no events of this publisher arrive at a live subscriber, in words; `None` where they do, as far
    /// as it is known, or where another publisher posts them.
    pub fn undelivered(&self, base: Url, source: &CheckInSource) -> Option<String> {
        let refusal = self.trust.refusal(&base, source);
        let base = SecretUrl::from(base);
        let known = self.all();
        match known.into_iter().find(|known| known.base == base) {
            Some(known) => known.failure().clone(),
            None => match refusal? {
                Refusal::OtherLoopback => None,
                refusal => Some(refusal.to_string()),
            },
        }
    }

    /// All subscribers, for one event.
    pub(super) fn all(&self) -> Vec<Arc<Subscriber>> {
        self.known
            .read()
            .expect("no holder of this lock can panic")
            .all
            .clone()
    }

    /// The token that all subscribers expect.
    pub(super) fn token(&self) -> Option<&str> {
        self.trust.token()
    }

    /// The subscriber of a URL, new where it is not known; `None` when there are too many. `why` is for
    /// the log.
    fn insert(&self, base: SecretUrl, why: &str) -> Option<Arc<Subscriber>> {
        // Most are known already; a check-in must not wait for a lock that excludes deliveries.
        let all = self.all();
        if let Some(known) = all.into_iter().find(|subscriber| subscriber.base == base) {
            return Some(known);
        }
        let mut known = self
            .known
            .write()
            .expect("no holder of this lock can panic");
        // Checked again under the write lock: another check-in may have added it in between.
        if let Some(known) = known.all.iter().find(|known| known.base == base) {
            return Some(known.clone());
        }
        let mut is_full = known.all.len() - known.configured >= self.max_found;
        // A URL that takes no events, as a forged one, gives its place to a new one.
        if is_full {
            let dead = known
                .all
                .iter()
                .skip(known.configured)
                .position(|found| found.breaker.is_open());
            if let Some(index) = dead {
                let index = known.configured + index;
                known.all.remove(index);
                is_full = false;
            }
        }
        if is_full {
            return None;
        }
        let subscriber = Arc::new(Subscriber::new(base, Callers::default()));
        info!(?subscriber, "the subscriber {why}");
        known.all.push(subscriber.clone());
        Some(subscriber)
    }
}

/// A subscriber, by the root of its URL.
pub(super) struct Subscriber {
    pub(super) base: SecretUrl,
    routes: Mutex<Option<KnownRoutes>>,
    /// For whom events are sent there.
    callers: Callers,
    pub(super) breaker: CircuitBreaker,
    /// Why it did not take the last event.
    failure: Mutex<Option<String>>,
    /// The run of its process that last checked in.
    boot_id: Mutex<String>,
}

/// The answer of a subscriber to `/dapr/subscribe`.
struct KnownRoutes {
    read_at: Instant,
    by_collection: HashMap<String, SecretUrl>,
}

/// What is known about the route of a collection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Events of the collection are posted here.
    To(SecretUrl),
    /// The subscriber does not subscribe to the collection.
    NotSubscribed,
    /// The subscriptions were not read yet, or are too old.
    Unknown,
}

impl Subscriber {
    fn new(base: SecretUrl, callers: Callers) -> Self {
        Self {
            base,
            routes: Mutex::default(),
            callers,
            breaker: CircuitBreaker::default(),
            failure: Mutex::default(),
            boot_id: Mutex::default(),
        }
    }

    /// The route of a collection, as far as it is known.
    pub(super) fn route(&self, collection: &CollectionName) -> Route {
        match self.routes().as_ref() {
            Some(routes) if routes.read_at.elapsed() < ROUTES_LIFETIME => {
                match routes.by_collection.get(collection.as_str()) {
                    Some(route) => Route::To(route.clone()),
                    None => Route::NotSubscribed,
                }
            }
            _ => Route::Unknown,
        }
    }

    /// The routes of subscriptions that were just read, by collection.
    ///
    /// # Errors
    /// When a route is no URL, or is a URL of another host: events carry the token.
    pub(super) fn own_routes(
        &self,
        subscriptions: Vec<Subscription>,
    ) -> anyhow::Result<HashMap<String, SecretUrl>> {
        let mut by_collection = HashMap::new();
        for subscription in subscriptions {
            let route = self
                .own_url(&subscription.routes.default)
                .with_context(|| format!("the route of the topic {:?}", subscription.topic))?;
            by_collection.insert(subscription.topic, route);
        }
        Ok(by_collection)
    }

    /// Keeps the routes, for a limited time.
    pub(super) fn set_routes(&self, by_collection: HashMap<String, SecretUrl>) {
        *self.routes() = Some(KnownRoutes {
            read_at: Instant::now(),
            by_collection,
        });
    }

    /// The subscriptions are read again before the next delivery.
    pub(super) fn forget_routes(&self) {
        *self.routes() = None;
    }

    /// Whether it is known by its check-in alone.
    pub(super) fn is_found(&self) -> bool {
        !self.callers.is_of_settings()
    }

    /// It checked in: another run of its process may have other subscriptions, and failed at nothing yet.
    fn is_run(&self, boot_id: &str) {
        let mut known = self
            .boot_id
            .lock()
            .expect("no holder of this lock can panic");
        if *known != boot_id {
            boot_id.clone_into(&mut known);
            self.forget_routes();
            *self.failure() = None;
        }
    }

    /// Why it did not take the last event; `None` when it did.
    pub(super) fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure
            .lock()
            .expect("no holder of this lock can panic")
    }

    fn own_url(&self, route: &str) -> anyhow::Result<SecretUrl> {
        let base = self.base.expose();
        let url = base.join(route).context("a route is no URL")?;
        ensure!(
            url.origin() == base.origin(),
            "a route is a URL of another host"
        );
        Ok(url.into())
    }

    fn routes(&self) -> MutexGuard<'_, Option<KnownRoutes>> {
        self.routes
            .lock()
            .expect("no holder of this lock can panic")
    }
}

/// Scheme, host and port only: the URL may hold a password.
impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.base.expose();
        let port = base.port_or_known_default().unwrap_or_default();
        let host = base.host_str().unwrap_or_default();
        write!(f, "{}://{host}:{port}", base.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    fn session() -> Arc<Session> {
        Arc::new(Session::new(open(), Default::default()))
    }

    fn open() -> Arc<Authenticator> {
        Arc::new(Authenticator::open())
    }

    #[test]
    fn a_replica_that_checks_in_gets_events_from_loopback_and_from_allowed_hosts() {
        let subscribers = SubscriberRegistry::new(
            vec![url("http://set:1").into()],
            BTreeSet::from(["friend".to_owned()]),
            None,
            open(),
        );
        let from = |peer: [u8; 4]| {
            subscribers.identify(Peer {
                address: Some(peer.into()),
                token: None,
            })
        };
        let here = from([127, 0, 0, 1]);
        let elsewhere = from([10, 0, 0, 1]);
        for (found, source) in [
            ("http://127.0.0.1:2", &here),
            ("http://localhost:3", &here),
            ("http://friend:5", &elsewhere),
        ] {
            subscribers.add(url(found), source, &session(), "boot");
            subscribers.add(url(found), source, &session(), "boot");
        }
        for (untrusted, source) in [
            ("http://elsewhere:1", &here),
            ("http://127.0.0.1:7", &elsewhere),
        ] {
            subscribers.add(url(untrusted), source, &session(), "boot");
        }
        assert_eq!(subscribers.all().len(), 4);
        let stays = subscribers.all()[2].clone();
        let rows = [
            (stays.base.expose().clone(), &here),
            (url("http://127.0.0.1:8"), &elsewhere),
            (url("http://127.0.0.1:9"), &here),
        ];
        subscribers.replace(rows.into_iter(), Instant::now());
        let all = subscribers.all();
        assert_eq!(all.len(), 3);
        assert!(Arc::ptr_eq(&all[1], &stays), "what is known of it is kept");
        (0..2 * MAX_FOUND).for_each(|port| {
            let found = url(&format!("http://127.0.0.1:{}", 10_000 + port));
            subscribers.add(found, &here, &session(), "boot")
        });
        assert_eq!(subscribers.all().len(), 1 + MAX_FOUND);
        subscribers.replace(std::iter::empty(), Instant::now());
        assert_eq!(subscribers.all().len(), 1, "the settings stay");
        let before = Instant::now();
        subscribers.add(url("http://127.0.0.1:9"), &here, &session(), "boot");
        subscribers.replace(std::iter::empty(), before);
        assert_eq!(subscribers.all().len(), 2, "it checked in meanwhile");
    }

    #[test]
    fn beyond_the_limit_only_a_subscriber_that_takes_no_events_gives_its_place_to_a_new_one() {
        let set = url("http://set:1");
        let new = |limit| {
            SubscriberRegistry::new(vec![set.clone().into()], BTreeSet::new(), None, open())
                .at_most(limit)
        };
        let check_in = |registry: &SubscriberRegistry, port: u16| {
            let source = registry.identify(Peer {
                address: Some([127, 0, 0, 1].into()),
                token: None,
            });
            let base = url(&format!("http://127.0.0.1:{port}"));
            registry.add(base, &source, &session(), "boot");
        };
        let ports = |registry: &SubscriberRegistry| -> Vec<_> {
            let all = registry.all();
            all.iter()
                .skip(1)
                .filter_map(|subscriber| subscriber.base.expose().port())
                .collect()
        };
        let none = new(0);
        check_in(&none, 2);
        assert_eq!(ports(&none), [0; 0]);

        let registry = new(2);
        for port in [2, 3, 4, 2] {
            check_in(&registry, port);
        }
        assert_eq!(ports(&registry), [2, 3], "the limit, and one beyond it");
        let fails = |index: usize| {
            let all = registry.all();
            assert!(all[index].breaker.acquire().expect("a permit").failed());
        };
        // One of the settings never gives its place.
        fails(0);
        check_in(&registry, 4);
        assert_eq!(ports(&registry), [2, 3]);
        fails(1);
        check_in(&registry, 4);
        assert_eq!(ports(&registry), [3, 4]);
    }

    #[test]
    fn a_subscriber_that_checks_in_and_gets_no_events_is_named_once_with_the_remedy() {
        let registry = |token: Option<&str>| {
            SubscriberRegistry::new(
                vec![url("http://set:1").into()],
                BTreeSet::from(["friend".to_owned()]),
                token.map(|text| SubscriberToken {
                    text: text.to_owned(),
                    allow_plaintext: true,
                }),
                open(),
            )
        };
        let open = registry(None);
        let source = open.identify(Peer {
            address: Some([10, 0, 0, 1].into()),
            token: None,
        });
        let elsewhere = CheckInSource {
            loopback: Some("another".to_owned()),
            ..CheckInSource::default()
        };
        let rows = || {
            let refused = [("http://user:secret@other:2", &source)];
            let fine = [
                ("http://set:1", &source),
                ("http://friend:5", &source),
                ("http://127.0.0.1:7", &elsewhere),
            ];
            let all = refused.into_iter().chain(fine);
            all.map(|(base, source)| (url(base), source))
        };
        let lines = open.newly_refused(rows());
        let [line] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert!(
            line.contains("other:2 checks in and gets no events")
                && line.contains("AURA_CONFIGURATION_LOCAL_ALLOW")
                && !line.contains("secret"),
            "{line}"
        );
        assert_eq!(open.newly_refused(rows()), Vec::<String>::new());
        // The same in the list of replicas, for as long as it is so.
        let why = |base: &str| open.undelivered(url(base), &source);
        assert!(why("http://other:2").is_some_and(|why| why.contains("LOCAL_ALLOW")));
        assert_eq!(why("http://set:1"), None);
        assert_eq!(why("http://friend:5"), None);
        open.newly_refused(std::iter::empty());
        assert_eq!(open.newly_refused(rows()).len(), 1, "it came back");
        let lines = registry(Some("t")).newly_refused(rows());
        assert!(
            lines[1].contains("friend:5") && lines[1].contains("APP_API_TOKEN"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_route_of_another_host_is_refused() {
        let base = url("http://user:secret@one:1").into();
        let subscriber = Subscriber::new(base, Callers::default());
        let collection: CollectionName = "A".parse().expect("a name");
        let subscription = |route: &str| {
            let mut subscription = Subscription::new("pubsub", &collection);
            subscription.routes.default = route.to_owned();
            vec![subscription]
        };
        assert_eq!(subscriber.route(&collection), Route::Unknown);
        for wrong in ["http://two:1/events", "//two/events", "http://one:2/events"] {
            let refused = subscriber.own_routes(subscription(wrong));
            assert!(refused.is_err(), "{wrong}");
        }
        let routes = subscriber.own_routes(subscription("/events"));
        subscriber.set_routes(routes.expect("routes of the subscriber"));
        let route = subscriber.route(&collection);
        let shown = format!("{subscriber:?} {route:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let expected = Route::To(url("http://user:secret@one:1/events").into());
        assert_eq!(route, expected);
        let other: CollectionName = "B".parse().expect("a name");
        assert_eq!(subscriber.route(&other), Route::NotSubscribed);
        subscriber.forget_routes();
        assert_eq!(subscriber.route(&collection), Route::Unknown);
    }
}
