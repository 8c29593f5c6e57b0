//! Entries of secret stores, asked for at the secrets API of a Dapr sidecar and held in memory only.
//!
//! An entry is asked for at a time, and only one that the service has allowed: whoever writes
//! configuration would else choose what this service reads. An entry that was read stays while the
//! store does not answer. Nothing here is saved, and no value is logged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::secrets::SecretRef;
use reqwest::{StatusCode, Url, header::HeaderValue};
use secrets::Plain;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::BuildError;

/// Default of [`SecretStore::refresh`].
const REFRESH: Duration = Duration::from_secs(60);
/// Longest time for a round of requests. The next one begins where it ended.
const ROUND_TIME: Duration = Duration::from_secs(30);
/// Longest time for one entry.
const ENTRY_TIME: Duration = Duration::from_secs(5);
/// How long new documents wait for their entries.
const NEW_TIME: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;
/// Most entries that are held and asked for: further references have no value.
const MAX_ENTRIES: usize = 1_000;
/// Port of the HTTP API of a sidecar.
const PORT: u16 = 3500;

/// Where references to secret stores (`x-secret-ref`) are resolved: the HTTP API of the Dapr sidecar of
/// this service. It resolves what [`SecretStore::allow`] names, and nothing else.
#[derive(Debug, Clone)]
pub struct SecretStore {
    sidecar: Url,
    /// Stores, each with how the keys in it begin.
    allowed: Vec<(String, String)>,
    token: Option<HeaderValue>,
    refresh: Duration,
}

impl SecretStore {
    /// The sidecar at this base URL, for example `http://127.0.0.1:3500`.
    pub fn new(sidecar: Url) -> Self {
        Self {
            sidecar,
            allowed: Vec::new(),
            token: None,
            refresh: REFRESH,
        }
    }

    /// The sidecar that the environment names: `DAPR_HTTP_PORT`, `DAPR_API_TOKEN`,
    /// `AURA_CONFIGURATION_SECRET_REFRESH_SECONDS`, and `AURA_CONFIGURATION_SECRET_STORES`: what is
    /// allowed, as `store` or `store/beginning of the key`, separated by commas.
    ///
    /// # Errors
    /// When one of them has a wrong form. No error shows the token.
    pub fn from_environment() -> Result<Self, BuildError> {
        fn variable(name: &'static str) -> Option<String> {
            std::env::var(name).ok().filter(|text| !text.is_empty())
        }
        let wrong = |name, expected| move || BuildError::Setting { name, expected };
        let port = variable("DAPR_HTTP_PORT").map_or(Ok(PORT), |text| {
            text.parse()
                .map_err(|_error| wrong("DAPR_HTTP_PORT", "a port")())
        })?;
        let url = format!("http://127.0.0.1:{port}");
        let mut store = Self::new(
            url.parse()
                .map_err(|_error| wrong("DAPR_HTTP_PORT", "a port")())?,
        );
        if let Some(text) = variable("DAPR_API_TOKEN") {
            let mut token = HeaderValue::from_str(&text)
                .map_err(|_error| wrong("DAPR_API_TOKEN", "text without control characters")())?;
            token.set_sensitive(true);
            store.token = Some(token);
        }
        let stores = variable("AURA_CONFIGURATION_SECRET_STORES").unwrap_or_default();
        for text in stores.split(',').map(str::trim) {
            let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
            if !name.is_empty() {
                store = store.allow(name, prefix);
            }
        }
        let name = "AURA_CONFIGURATION_SECRET_REFRESH_SECONDS";
        if let Some(text) = variable(name) {
            let seconds = text.parse().ok().filter(|seconds: &u64| *seconds > 0);
            let seconds = seconds.ok_or_else(wrong(name, "seconds, from 1"))?;
            store.refresh = Duration::from_secs(seconds);
        }
        Ok(store)
    }

    /// Lets documents refer to the entries of a secret store whose keys begin with `prefix`; all of its
    /// entries with an empty one. By default no entry is allowed: documents come from whoever may write
    /// them, and must not choose which secrets this service reads.
    #[must_use]
    pub fn allow(mut self, store: impl Into<String>, prefix: impl Into<String>) -> Self {
        self.allowed.push((store.into(), prefix.into()));
        self
    }

    fn allows(&self, reference: &SecretRef) -> bool {
        // A store that makes a path or a URL of the key would leave what is allowed.
        let key = &reference.key;
        if key.contains(['%', '?', '#', '\\']) || key.split('/').any(|part| part == "..") {
            return false;
        }
        let mut allowed = self.allowed.iter();
        allowed.any(|(store, prefix)| *store == reference.store && key.starts_with(prefix))
    }

    /// The token that the sidecar expects. Mark it sensitive, so that it is never shown.
    #[must_use]
    pub fn token(mut self, token: HeaderValue) -> Self {
        self.token = Some(token);
        self
    }

    /// The longest age of an entry before it is asked for again; 60 s by default.
    #[must_use]
    pub fn refresh(mut self, refresh: Duration) -> Self {
        self.refresh = refresh;
        self
    }
}

/// The entries that were read.
#[derive(Debug)]
pub(crate) struct StoreCache {
    config: SecretStore,
    client: reqwest::Client,
    entries: Mutex<BTreeMap<SecretRef, Entry>>,
    /// The secret with which the next round of requests begins.
    begin: Mutex<Option<SecretKey>>,
    /// Whether the log says that there are more references than entries may be held.
    warned: AtomicBool,
}

/// Store and key of a secret.
type SecretKey = (String, String);

/// What is known of an entry: the last good value, and why there is no newer one.
#[derive(Debug, Default)]
struct Entry {
    value: Option<Plain>,
    fault: Option<String>,
}

impl StoreCache {
    /// A cache that has read nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub(crate) fn new(config: SecretStore) -> Result<Self, reqwest::Error> {
        // A redirection would carry the token to another host.
        let client = client::http()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self {
            config,
            client,
            entries: Mutex::default(),
            begin: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// The longest age of an entry.
    pub(crate) fn refresh(&self) -> Duration {
        self.config.refresh
    }

    /// The value of an entry, a JSON text.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn get(&self, reference: &SecretRef) -> Result<Plain, String> {
        if !self.config.allows(reference) {
            return Err(format!(
                "{} is not one that this service allows (SecretStore::allow, \
                 AURA_CONFIGURATION_SECRET_STORES)",
                shown(reference)
            ));
        }
        let entries = self.entries();
        let Some(entry) = entries.get(reference) else {
            let reason = match entries.len() >= MAX_ENTRIES {
                true => format!("is not read: there are more than {MAX_ENTRIES} references"),
                false => "was not read yet".to_owned(),
            };
            return Err(format!("{} {reason}", shown(reference)));
        };
        entry.value.clone().ok_or_else(|| {
            let fault = entry.fault.clone();
            fault.unwrap_or_else(|| format!("{} was not read yet", shown(reference)))
        })
    }

    /// Asks for those entries that were never asked for, for a moment.
    pub(crate) async fn fetch_new(&self, refs: BTreeSet<SecretRef>) {
        let unknown = self.admitted_new(refs);
        if !unknown.is_empty() {
            // What is late is asked for by the task that refreshes.
            _ = timeout(NEW_TIME, self.fetch(unknown)).await;
        }
    }

    /// Asks again for all of these entries, or for those without a value. Entries that nothing refers to
    /// are forgotten. The entries that are others than before.
    pub(crate) async fn refresh_entries(
        &self,
        refs: BTreeSet<SecretRef>,
        all: bool,
    ) -> BTreeSet<SecretRef> {
        let mut due: BTreeSet<_> = {
            let mut entries = self.entries();
            entries.retain(|reference, _entry| refs.contains(reference));
            let known = entries.iter();
            known
                .filter(|(_reference, entry)| all || entry.value.is_none())
                .map(|(reference, _entry)| reference.clone())
                .collect()
        };
        due.append(&mut self.admitted_new(refs));
        self.fetch(due).await
    }

    /// Of some references those that have no entry yet, are allowed, and find room.
    fn admitted_new(&self, refs: BTreeSet<SecretRef>) -> BTreeSet<SecretRef> {
        let entries = self.entries();
        let mut new = refs
            .into_iter()
            .filter(|found| !entries.contains_key(found) && self.config.allows(found));
        let room = MAX_ENTRIES.saturating_sub(entries.len());
        let admitted = new.by_ref().take(room).collect();
        let is_full = new.next().is_some();
        if is_full && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the documents refer to more than {MAX_ENTRIES} entries of secret stores: further ones \
                 are not read, and documents that refer to them have no new value"
            );
        }
        admitted
    }

    /// The entries whose value is another one than before. What is not asked for within
    /// [`ROUND_TIME`] is asked for first in the next round.
    async fn fetch(&self, refs: BTreeSet<SecretRef>) -> BTreeSet<SecretRef> {
        let end = Instant::now() + ROUND_TIME;
        let mut changed = BTreeSet::new();
        // The members of one secret come in one answer.
        let mut by_secret = BTreeMap::<SecretKey, Vec<SecretRef>>::new();
        for reference in refs {
            let secret = (reference.store.clone(), reference.key.clone());
            by_secret.entry(secret).or_default().push(reference);
        }
        let begin = self.begin().clone();
        let first = match begin {
            Some(begin) => by_secret.split_off(&begin),
            None => BTreeMap::new(),
        };
        for ((store, key), refs) in first.into_iter().chain(by_secret) {
            if Instant::now() >= end {
                *self.begin() = Some((store, key));
                break;
            }
            let answer = timeout(ENTRY_TIME, self.ask(&store, &key)).await;
            let answer = answer.unwrap_or_else(|_elapsed| Err("the sidecar is late".to_owned()));
            for reference in refs {
                let value = match &answer {
                    Ok(members) => select(members, &reference),
                    Err(fault) => Err(fault.clone()),
                };
                if self.note(&reference, value) {
                    changed.insert(reference);
                }
            }
        }
        changed
    }

    /// Remembers what was read. Whether the value is another one than before.
    fn note(&self, reference: &SecretRef, read: Result<Plain, String>) -> bool {
        let mut entries = self.entries();
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(reference) {
            return false;
        }
        let entry = entries.entry(reference.clone()).or_default();
        match read {
            Ok(value) => {
                if entry.fault.take().is_some() {
                    tracing::info!("{} can be read again", shown(reference));
                }
                let is_new = entry.value.as_ref() != Some(&value);
                entry.value = Some(value);
                is_new
            }
            Err(fault) => {
                let text = format!("{} cannot be read: {fault}", shown(reference));
                if entry.fault.as_ref() != Some(&text) {
                    let follows = match entry.value {
                        Some(_) => "the last value stays",
                        None => "documents that refer to it have no new value",
                    };
                    tracing::warn!("{text}; {follows}");
                }
                entry.fault = Some(text);
                false
            }
        }
    }

    /// The members of a secret.
    ///
    /// # Errors
    /// Why they cannot be read, without anything of the answer.
    async fn ask(&self, store: &str, key: &str) -> Result<BTreeMap<String, Plain>, String> {
        let mut url = self.config.sidecar.clone();
        url.path_segments_mut()
            .map_err(|()| "the URL of the sidecar cannot have a path".to_owned())?
            .pop_if_empty()
            .extend(["v1.0", "secrets", store, key]);
        let mut request = self.client.get(url);
        if let Some(token) = &self.config.token {
            request = request.header("dapr-api-token", token.clone());
        }
        let answer = request.send().await;
        let mut answer = answer.map_err(|_error| "the sidecar does not answer".to_owned())?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => {
                return Err("the store has no such secret".to_owned());
            }
            status => return Err(format!("the sidecar answers {status}")),
        }
        let mut body = zeroize::Zeroizing::new(Vec::new());
        while let Some(part) = answer
            .chunk()
            .await
            .map_err(|_error| "the answer of the sidecar ends early".to_owned())?
        {
            if body.len() + part.len() > MAX_ANSWER {
                return Err(format!("the secret is larger than {MAX_ANSWER} bytes"));
            }
            body.extend_from_slice(&part);
        }
        let members: BTreeMap<String, String> = serde_json::from_slice(&body)
            .map_err(|_error| "the answer of the sidecar is no secret".to_owned())?;
        let members = members.into_iter();
        Ok(members
            .map(|(name, text)| (name, Plain::of(&Value::String(text))))
            .collect())
    }

    fn begin(&self) -> MutexGuard<'_, Option<SecretKey>> {
        self.begin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<SecretRef, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The member of a secret that a reference means.
fn select(members: &BTreeMap<String, Plain>, reference: &SecretRef) -> Result<Plain, String> {
    let found = match &reference.member {
        Some(member) => members.get(member),
        None if members.len() == 1 => members.values().next(),
        None => members.get(&reference.key),
    };
    found.cloned().ok_or_else(|| match &reference.member {
        Some(_) => "the secret has no such member".to_owned(),
        None => "the secret has several members, and the reference names none".to_owned(),
    })
}

/// A reference in a text.
fn shown(reference: &SecretRef) -> String {
    let SecretRef { store, key, member } = reference;
    match member {
        Some(member) => format!("the secret {key:?} (member {member:?}) of the store {store:?}"),
        None => format!("the secret {key:?} of the store {store:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(member: Option<&str>) -> SecretRef {
        SecretRef {
            store: "vault".to_owned(),
            key: "db".to_owned(),
            member: member.map(str::to_owned),
        }
    }

    #[test]
    fn a_reference_means_one_member_of_a_secret() {
        let of = |members: &[&str]| -> BTreeMap<String, Plain> {
            let members = members.iter();
            let plain = |name: &&str| ((*name).to_owned(), Plain::of(&Value::from(*name)));
            members.map(plain).collect()
        };
        let chosen = |members: &[&str], member| {
            let found = select(&of(members), &reference(member));
            found.map(|plain| plain.expose().to_owned())
        };
        assert_eq!(chosen(&["any"], None).as_deref(), Ok("\"any\""));
        assert_eq!(chosen(&["a", "db"], None).as_deref(), Ok("\"db\""));
        assert_eq!(chosen(&["a", "b"], Some("b")).as_deref(), Ok("\"b\""));
        assert!(chosen(&["a", "b"], None).is_err());
        assert!(chosen(&["a"], Some("b")).is_err());
    }

    #[test]
    fn the_last_value_stays_while_a_store_does_not_answer() {
        let url = "http://127.0.0.1:1".parse().expect("a URL");
        let config = SecretStore::new(url).allow("vault", "d");
        let cache = StoreCache::new(config).expect("a cache");
        let db = reference(None);
        assert!(cache.get(&db).is_err());
        assert!(!cache.note(&db, Err("away".to_owned())));
        assert!(cache.get(&db).expect_err("no value").contains("away"));
        let value = Plain::of(&Value::from("canary"));
        assert!(cache.note(&db, Ok(value.clone())));
        assert!(!cache.note(&db, Ok(value)), "it is the same");
        assert!(!cache.note(&db, Err("away".to_owned())));
        assert_eq!(cache.get(&db).expect("a value").expose(), "\"canary\"");
        assert!(!format!("{cache:?}").contains("canary"));
    }

    #[test]
    fn only_what_the_service_allows_is_asked_for_and_no_more_than_is_held() {
        let url = "http://127.0.0.1:1".parse().expect("a URL");
        let config = SecretStore::new(url).allow("vault", "app-");
        let cache = StoreCache::new(config).expect("a cache");
        let of = |store: &str, key: String| SecretRef {
            store: store.to_owned(),
            key,
            member: None,
        };
        let numbered = |n: usize| of("vault", format!("app-{n:05}"));
        let wrong = [
            of("vault", "db".into()),
            of("other", "app-1".into()),
            of("vault", "app-/../db".into()),
            of("vault", "app-/%2e%2e/db".into()),
        ];
        for wrong in &wrong {
            let error = cache.get(wrong).expect_err("not allowed");
            assert!(error.contains("SecretStore::allow"), "{error}");
        }
        let refs = (0..MAX_ENTRIES + 50).map(numbered).chain(wrong);
        let admitted = cache.admitted_new(refs.collect());
        assert_eq!(admitted.len(), MAX_ENTRIES);
        for found in &admitted {
            cache.note(found, Err("away".to_owned()));
        }
        let last = numbered(MAX_ENTRIES + 49);
        assert!(cache.admitted_new([last.clone()].into()).is_empty());
        let error = cache.get(&last).expect_err("there is no room");
        assert!(error.contains("more than 1000"), "{error}");
    }
}
