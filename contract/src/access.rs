//! What a caller may do: rights, the roles that carry them, and the one decision about both.
//!
//! A caller is an [`Identity`]: a name that was proven by a credential, and its grants. A grant is a
//! role, within some collections and ids. [`TABLE`] says which rights a role has, [`routes`] which
//! right a request needs, and [`Identity::require`] decides. Nothing here proves a name, reads a
//! request or keeps a secret.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use crate::ids::{CollectionName, DocumentId, FormatError};

pub mod routes;

/// An enum whose names are written the same way on the wire, in settings and in messages.
macro_rules! named {
    ($(#[$of_type:meta])* $type:ident: $form:literal {
        $($(#[$of_value:meta])* $value:ident = $name:literal,)*
    }) => {
        $(#[$of_type])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(rename_all = "kebab-case"))]
        pub enum $type {
            $($(#[$of_value])* #[serde(rename = $name)] $value,)*
        }

        impl $type {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = FormatError;

            fn from_str(text: &str) -> Result<Self, FormatError> {
                let known = Self::ALL.iter().find(|known| known.as_str() == text);
                known.copied().ok_or_else(|| FormatError::new($form, text, concat!($($name, " "),*)))
            }
        }
    };
}

named! {
    /// One kind of operation that a caller needs permission for.
    Right: "right" {
        /// Read documents, their history, schemas, lists, snapshots and feeds.
        Read = "read",
        /// Create, replace, patch, delete and roll back one document.
        Write = "write",
        /// Commit and undo change sets, roll back a collection. Each of its documents needs
        /// [`Right::Write`] as well.
        WriteSet = "write-set",
        /// Check in and report dropped events: what a replica does besides reading.
        Follow = "follow",
        /// See the state of the service, without values of documents: heads, metrics, replicas, dead
        /// letters.
        Observe = "observe",
        /// Change the state of the service: epoch, repair, named snapshots, dead letters.
        Operate = "operate",
        /// Create, list and revoke tokens.
        ManageTokens = "manage-tokens",
        /// Read the audit log.
        Audit = "audit",
        /// Name another user as the author of a change.
        AssertUser = "assert-user",
        /// Read secret values in plain text.
        ReadSecrets = "read-secrets",
    }
}

named! {
    /// A named set of rights. See [`TABLE`].
    Role: "role" {
        /// Reads.
        Reader = "reader",
        /// Reads, and changes one document at a time.
        Writer = "writer",
        /// Reads, and changes documents also together.
        Publisher = "publisher",
        /// A replica.
        Replica = "replica",
        /// Operates the service. It reads no values: for that it needs another role besides.
        Operator = "operator",
        /// Sees the state of the service: a monitoring system.
        Monitor = "monitor",
        /// Reads the audit log.
        Auditor = "auditor",
        /// Acts for users that it has authenticated. It writes only with another role besides.
        Gateway = "gateway",
        /// Reads secrets.
        SecretReader = "secret-reader",
    }
}

/// The rights of each role, in the order of [`Role::ALL`]: the only place that says so.
///
/// A role that changes documents reads them too: refusals show what is there.
pub const TABLE: [(Role, &[Right]); 9] = [
    (Role::Reader, &[Right::Read]),
    (Role::Writer, &[Right::Read, Right::Write]),
    (
        Role::Publisher,
        &[Right::Read, Right::Write, Right::WriteSet],
    ),
    (Role::Replica, &[Right::Read, Right::Follow]),
    (
        Role::Operator,
        &[
            Right::Observe,
            Right::Operate,
            Right::ManageTokens,
            Right::Audit,
        ],
    ),
    (Role::Monitor, &[Right::Observe]),
    (Role::Auditor, &[Right::Audit]),
    (Role::Gateway, &[Right::AssertUser]),
    (Role::SecretReader, &[Right::Read, Right::ReadSecrets]),
];

impl Role {
    /// Its rights.
    pub const fn rights(self) -> &'static [Right] {
        TABLE[self as usize].1
    }
}

impl Right {
    /// The roles that have it.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        TABLE
            .into_iter()
            .filter_map(move |(role, rights)| rights.contains(&self).then_some(role))
    }
}

/// A role within some collections and ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The collections; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<Vec<CollectionName>>, min_items = 1))]
    pub collections: Option<BTreeSet<CollectionName>>,
    /// How the ids of the documents begin; absent: all. Such a grant is for single documents: it
    /// gives no list, feed or snapshot, whose proofs are over all documents of a collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_prefix: Option<String>,
}

/// What an operation concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// One document.
    Document(&'a CollectionName, &'a DocumentId),
    /// All documents of one collection.
    Collection(&'a CollectionName),
    /// Some documents of one collection: the handler asks again for each of them.
    DocumentsOf(&'a CollectionName),
    /// The service as a whole, and every collection.
    Service,
    /// Something of the store: the handler asks again for what it selects.
    Selection,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(collection, id) => write!(f, "document {id} of {collection}"),
            Self::Collection(collection) => write!(f, "all documents of {collection}"),
            Self::DocumentsOf(collection) => write!(f, "any document of {collection}"),
            Self::Service => f.write_str("the whole service"),
            Self::Selection => f.write_str("any collection"),
        }
    }
}

impl Grant {
    /// A role everywhere.
    pub fn everywhere(role: Role) -> Self {
        Self {
            role,
            collections: None,
            id_prefix: None,
        }
    }

    fn covers(&self, target: Target<'_>) -> bool {
        let has = |collection: &CollectionName| {
            self.collections
                .as_ref()
                .is_none_or(|named| named.contains(collection))
        };
        let prefix = self.id_prefix.as_deref().unwrap_or_default();
        match target {
            Target::Document(collection, id) => has(collection) && id.as_str().starts_with(prefix),
            Target::Collection(collection) => has(collection) && prefix.is_empty(),
            Target::DocumentsOf(collection) => has(collection),
            Target::Service => self.collections.is_none() && prefix.is_empty(),
            Target::Selection => self
                .collections
                .as_ref()
                .is_none_or(|named| !named.is_empty()),
        }
    }
}

/// In words, as lists of tokens show it: `writer of Skills, ids team-a.*`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role)?;
        if let Some(collections) = &self.collections {
            let names: Vec<_> = collections.iter().map(CollectionName::as_str).collect();
            write!(f, " of {}", names.join(", "))?;
        }
        match &self.id_prefix {
            Some(prefix) => write!(f, ", ids {}*", crate::text::Escaped(prefix)),
            None => Ok(()),
        }
    }
}

/// A caller whose name is proven, and what it may do. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Identity {
    /// Names the caller in logs, audits and change records: `token:NAME`, `jwt:SUBJECT`, `cert:NAME`
    /// or `anonymous`.
    #[cfg_attr(feature = "utoipa", schema(value_type = String))]
    pub name: Arc<str>,
    /// Its grants.
    #[cfg_attr(feature = "utoipa", schema(value_type = Vec<Grant>))]
    pub grants: Arc<[Grant]>,
}

/// Name of a caller that gave no credential.
pub const ANONYMOUS: &str = "anonymous";

/// Made once: every request of a service without credentials has it.
static ANYONE: LazyLock<Identity> = LazyLock::new(|| Identity {
    name: ANONYMOUS.into(),
    grants: Role::ALL.iter().copied().map(Grant::everywhere).collect(),
});

impl Identity {
    /// A caller without a credential where none is asked for: every right.
    pub fn unrestricted() -> Self {
        ANYONE.clone()
    }

    /// Whether no credential was asked for, and every right is given: the service has no credentials,
    /// or its settings exempt the caller.
    pub fn is_anonymous(&self) -> bool {
        &*self.name == ANONYMOUS
    }

    /// Whether it is [`Self::unrestricted`] itself: the quick answer for services without credentials. A
    /// caller whose grants give every right is none.
    pub fn is_unrestricted(&self) -> bool {
        Arc::ptr_eq(&self.grants, &ANYONE.grants)
    }

    /// Whether the caller has the right for the target: the one decision.
    pub fn may(&self, right: Right, target: Target<'_>) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.role.rights().contains(&right) && grant.covers(target))
    }

    /// The same as [`Self::may`], with the refusal.
    ///
    /// # Errors
    /// What is missing, when no grant gives the right for the target.
    pub fn require(&self, right: Right, target: Target<'_>) -> Result<(), MissingRight> {
        self.require_one(&[right], target)
    }

    /// Whether the caller has one of these rights for the target. The first one is the usual one.
    ///
    /// # Errors
    /// What is missing, when no grant gives one of the rights for the target.
    pub fn require_one(&self, rights: &[Right], target: Target<'_>) -> Result<(), MissingRight> {
        if rights.iter().any(|right| self.may(*right, target)) {
            return Ok(());
        }
        Err(MissingRight {
            rights: rights.to_vec(),
            target: target.to_string(),
        })
    }
}

/// A right that a caller does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    /// The rights of which one is needed, the usual one first; never empty.
    pub rights: Vec<Right>,
    /// Where it is missing, in words.
    pub target: String,
}

/// What is missing and which roles have it, without the name of the caller.
impl fmt::Display for MissingRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.rights.iter().map(|right| right.as_str()).collect();
        let roles: BTreeSet<_> = self.rights.iter().flat_map(|right| right.roles()).collect();
        let roles: Vec<_> = roles.into_iter().map(Role::as_str).collect();
        write!(
            f,
            "The right {} for {} is missing; roles that have it: {}",
            names.join(" or "),
            self.target,
            roles.join(", ")
        )
    }
}

impl std::error::Error for MissingRight {}

#[cfg(test)]
mod tests;
