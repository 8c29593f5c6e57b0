//! Tokens that were verified, by the hash of their text, so that the signature of a token is checked
//! once and not at every request.
//!
//! A token is remembered until it expires, and only for the keys that verified it: a key that its issuer
//! withdraws, and rules that change, end this at once. The number of tokens is bounded; of those that
//! are not used the oldest go. No token is kept, and none is verified here.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use contract::{access::Identity, sha256::Sha256};
use lru::LruCache;

use super::keys::Keys;

/// Most tokens, of all issuers together.
const MAX_TOKENS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// The holder of a token, and how long this is known.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    /// Who it is.
    pub(super) identity: Identity,
    /// Index of the issuer.
    pub(super) issuer: usize,
    /// The keys that verified the token.
    pub(super) keys: Weak<Keys>,
    /// The last second, since 1970, in which the token is valid.
    pub(super) until: u64,
}

impl Holder {
    /// Whether it holds with these keys of its issuer, at a time in seconds since 1970.
    pub(super) fn holds(&self, keys: &Arc<Keys>, now: u64) -> bool {
        now <= self.until && Weak::as_ptr(&self.keys) == Arc::as_ptr(keys)
    }
}

/// The tokens.
pub(super) struct Verified(Mutex<LruCache<Sha256, Holder>>);

impl Default for Verified {
    fn default() -> Self {
        // Made empty: most services have no issuer.
        let mut tokens = LruCache::unbounded();
        tokens.resize(MAX_TOKENS);
        Self(Mutex::new(tokens))
    }
}

impl Verified {
    /// The holder of a token, as it was known when the token was verified.
    pub(super) fn find(&self, token: &Sha256) -> Option<Holder> {
        self.tokens().get(token).cloned()
    }

    /// Remembers the holder of a token.
    pub(super) fn insert(&self, token: Sha256, holder: Holder) {
        self.tokens().put(token, holder);
    }

    /// Forgets a token.
    pub(super) fn remove(&self, token: &Sha256) {
        self.tokens().pop(token);
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, LruCache<Sha256, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified({})", self.tokens().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tokens_is_bounded_and_those_in_use_stay() {
        let keys = Arc::new(Keys::default());
        let verified = Verified::default();
        let token = |number: usize| Sha256::of(&[&number.to_be_bytes()]);
        let holder = Holder {
            identity: Identity::unrestricted(),
            issuer: 0,
            keys: Arc::downgrade(&keys),
            until: 9,
        };
        for number in 0..3 * MAX_TOKENS.get() {
            verified.insert(token(number), holder.clone());
            assert!(verified.find(&token(0)).is_some(), "{number}");
        }
        assert_eq!(verified.tokens().len(), MAX_TOKENS.get());
        assert!(verified.find(&token(1)).is_none());
    }

    #[test]
    fn a_holder_is_known_until_the_token_expires_and_for_the_same_keys() {
        let keys = Arc::new(Keys::default());
        let holder = Holder {
            identity: Identity::unrestricted(),
            issuer: 0,
            keys: Arc::downgrade(&keys),
            until: 9,
        };
        assert!(holder.holds(&keys, 9));
        assert!(!holder.holds(&keys, 10));
        assert!(!holder.holds(&Arc::new(Keys::default()), 9));
    }
}
