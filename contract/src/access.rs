//! What a caller may do: rights, the roles that carry them, and the one decision about both.
//!
//! A caller is an [`Identity`]: a name that was proven by a credential, and its grants. A grant is a
//! role, within some collections and ids. [`TABLE`] says which rights a role has, and
//! [`Identity::require`] decides. Nothing here proves a name, reads a request or keeps a secret.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::ids::{CollectionName, DocumentId};

/// One kind of operation that a caller needs permission for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Read documents, their history, schemas and lists.
    Read,
    /// Create, replace, patch, delete and roll back one document.
    Write,
    /// Commit and undo change sets, roll back a collection.
    WriteSet,
    /// Load, follow the feed, check in, report dead letters: what a replica does.
    Follow,
    /// See and change the state of the service: replicas, epoch, repair, named snapshots, dead letters.
    Operate,
    /// Create and revoke tokens.
    ManageTokens,
    /// Read the audit log.
    Audit,
    /// Name another user as the author of a change.
    AssertUser,
    /// Read secret values in plain text.
    ReadSecrets,
}

/// A named set of rights. See [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads, and changes one document at a time.
    Writer,
    /// Reads, and changes documents also together.
    Publisher,
    /// A replica.
    Replica,
    /// Operates the service.
    Operator,
    /// Acts for users that it has authenticated.
    Gateway,
    /// Reads secrets.
    SecretReader,
}

/// The rights of each role: the only place that says so.
pub const TABLE: [(Role, &[Right]); 7] = [
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
            Right::Read,
            Right::Operate,
            Right::ManageTokens,
            Right::Audit,
        ],
    ),
    (Role::Gateway, &[Right::AssertUser]),
    (Role::SecretReader, &[Right::Read, Right::ReadSecrets]),
];

impl Role {
    /// Its rights.
    pub fn rights(self) -> &'static [Right] {
        TABLE
            .iter()
            .find(|(role, _rights)| *role == self)
            .map_or(&[], |(_role, rights)| rights)
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
    pub collections: Option<BTreeSet<CollectionName>>,
    /// How the ids of the documents begin; absent: all.
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
    /// The service as a whole.
    Service,
    /// Something of the store: the handler selects what the caller may see.
    Selection,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(collection, id) => write!(f, "document {id} of {collection}"),
            Self::Collection(collection) => write!(f, "collection {collection}"),
            Self::Service => f.write_str("the service"),
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
        match target {
            Target::Document(collection, id) => {
                has(collection)
                    && self
                        .id_prefix
                        .as_deref()
                        .is_none_or(|prefix| id.as_str().starts_with(prefix))
            }
            Target::Collection(collection) => has(collection) && self.id_prefix.is_none(),
            Target::Service => self.collections.is_none() && self.id_prefix.is_none(),
            Target::Selection => true,
        }
    }
}

/// A caller whose name is proven, and what it may do. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Names the caller in logs, audits and change records: `token:NAME`, `jwt:SUBJECT`, `cert:NAME`
    /// or `anonymous`.
    pub name: Arc<str>,
    /// Its grants.
    pub grants: Arc<[Grant]>,
}

/// Name of a caller that gave no credential.
pub const ANONYMOUS: &str = "anonymous";

impl Identity {
    /// A caller without a credential where none is asked for: every right.
    pub fn unrestricted() -> Self {
        Self {
            name: ANONYMOUS.into(),
            grants: TABLE
                .iter()
                .map(|(role, _rights)| Grant::everywhere(*role))
                .collect(),
        }
    }

    /// Whether the caller may do this: the one decision.
    ///
    /// # Errors
    /// What is missing, when no grant gives the right for the target.
    pub fn require(&self, right: Right, target: Target<'_>) -> Result<(), MissingRight> {
        let allowed = self
            .grants
            .iter()
            .any(|grant| grant.role.rights().contains(&right) && grant.covers(target));
        if allowed {
            return Ok(());
        }
        Err(MissingRight {
            right,
            target: target.to_string(),
        })
    }
}

/// A right that a caller does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    /// The right.
    pub right: Right,
    /// Where it is missing, in words.
    pub target: String,
}

impl fmt::Display for MissingRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = TABLE
            .iter()
            .filter(|(_role, rights)| rights.contains(&self.right))
            .map(|(role, _rights)| format!("{role:?}").to_lowercase())
            .collect();
        write!(
            f,
            "the right {:?} for {} is missing; the roles {} have it",
            self.right,
            self.target,
            roles.join(", ")
        )
    }
}

impl std::error::Error for MissingRight {}
