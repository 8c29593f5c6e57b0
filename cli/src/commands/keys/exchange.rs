//! The steps of a key exchange, from what the files of a folder have. Pure.

use std::time::{Duration, SystemTime};

use contract::signature::{KeyId, PublicKeys, SigningKey};

use super::Listed;

/// What the files of a folder have.
#[derive(Debug)]
pub(super) struct Keys {
    /// The key that publishers sign with.
    pub(super) signing: SigningKey,
    /// When its file was written.
    pub(super) used_since: SystemTime,
    /// The key that they will sign with.
    pub(super) next: Option<SigningKey>,
    /// What replicas have.
    pub(super) public: PublicKeys,
    /// When their file was written.
    pub(super) published: SystemTime,
}

/// The next step of an exchange.
#[derive(Debug)]
pub(super) enum Step {
    /// A new key is made, and its public key added.
    Announce,
    /// The new key is there and its public key is not: an earlier call was cut off.
    Republish(SigningKey),
    /// The new key signs.
    Use(SigningKey),
    /// Keys that do not sign are removed.
    Retire(Vec<KeyId>),
}

/// A step that is too early: what the one before it wrote may not have reached every service.
#[derive(Debug)]
pub(in crate::commands) struct Early {
    /// How long ago the step before was.
    pub(in crate::commands) ago: humantime::FormattedDuration,
    /// In what time the next one may be taken.
    pub(in crate::commands) left: humantime::FormattedDuration,
}

impl Early {
    /// `None` when the step before is as old as `after`.
    pub(in crate::commands) fn check(
        now: SystemTime,
        since: SystemTime,
        after: Duration,
    ) -> Option<Self> {
        let age = now.duration_since(since).unwrap_or_default();
        let seconds = |seconds| humantime::format_duration(Duration::from_secs(seconds));
        (age < after).then(|| Self {
            ago: seconds(age.as_secs()),
            left: seconds((after - age).as_secs() + 1),
        })
    }
}

impl Keys {
    /// The next step, and since when the step before it is in its files; `None` where nothing has to
    /// reach a service before it.
    pub(super) fn next_step(&self) -> (Step, Option<SystemTime>) {
        let next = self
            .next
            .as_ref()
            .filter(|next| next.id() != self.signing.id());
        if let Some(next) = next {
            return if self.public.ids().any(|id| id == next.id()) {
                (Step::Use(next.clone()), Some(self.published))
            } else {
                (Step::Republish(next.clone()), None)
            };
        }
        let old: Vec<_> = self
            .public
            .ids()
            .filter(|id| *id != self.signing.id())
            .collect();
        if old.is_empty() {
            (Step::Announce, None)
        } else {
            (Step::Retire(old), Some(self.used_since))
        }
    }

    /// The public keys with those of the key that signs and of the one that will.
    pub(super) fn announced(&self, next: &SigningKey) -> PublicKeys {
        let public = self.public.clone();
        public.with(&self.signing.public()).with(&next.public())
    }

    /// All keys, each once.
    pub(super) fn list(&self) -> Vec<Listed> {
        let signing = self.signing.id();
        let next = self
            .next
            .as_ref()
            .map(SigningKey::id)
            .filter(|next| *next != signing);
        let old = self
            .public
            .ids()
            .filter(|id| *id != signing && Some(*id) != next);
        let roles = [(signing, "signing")]
            .into_iter()
            .chain(next.map(|id| (id, "next")))
            .chain(old.map(|id| (id, "old")));
        roles
            .map(|(id, role)| Listed {
                id: id.to_string(),
                role,
                public: self.public.ids().any(|public| public == id),
            })
            .collect()
    }
}
