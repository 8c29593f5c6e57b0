//! Bearer tokens of this project: the record of a token, and the requests that make, list and revoke
//! tokens.
//!
//! A record has the SHA-256 of its token and never the token. Nothing here generates or hashes a token,
//! or knows what time it is: crate `auth` does.

use std::{collections::HashSet, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    access::{Grant, Identity, Right},
    ids::{DocumentId, FormatError},
};

/// How every token begins, so that a scanner for secrets finds it.
pub const PREFIX: &str = "cct_";
/// Most tokens that a store keeps, with those that have ended.
pub const MAX_TOKENS: usize = 10_000;
/// Most grants of a token.
pub const MAX_GRANTS: usize = 32;
/// Longest body of a request for a token, in bytes.
pub const MAX_TOKEN_REQUEST: usize = 64 << 10;
/// Longest life that a request may name, in seconds: ten years.
pub const MAX_LIFE_SECONDS: u64 = 10 * 366 * 86_400;

/// Rights that a creator of tokens gives only when it has them: with the others an operator could
/// at most change documents under its own name.
const KEPT: [Right; 2] = [Right::AssertUser, Right::ReadSecrets];

/// Name of the holder of a token: 1 to 64 of `A-Z a-z 0-9 . _ @ / -`. The name alone is what logs,
/// change records and rates know of a caller, so tokens of the same name have the same grants: a new
/// one can replace an old one without a gap, and nobody acts under the name of a caller that may do
/// more ([`TokenRecord::keeps_from`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TokenName(String);

impl FromStr for TokenName {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let valid = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._@/-".contains(&byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            let expected = "1 to 64 of A-Z a-z 0-9 . _ @ / -";
            Err(FormatError::new("name of a token", text, expected))
        }
    }
}

/// SHA-256 of a token, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TokenHash(String);

/// Digits of a hash that are the id of its token.
const ID_DIGITS: usize = 16;

impl TokenHash {
    /// The id of the token: the first 16 digits of its hash.
    pub fn id(&self) -> TokenId {
        TokenId(self.0[..ID_DIGITS].to_owned())
    }
}

impl FromStr for TokenHash {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        if is_hex(text, 64) {
            Ok(Self(text.to_owned()))
        } else {
            // It may be the token itself, so it is not repeated.
            Err(FormatError::new("hash of a token", "…", "64 of 0-9 a-f"))
        }
    }
}

/// Names a token in lists and logs: the first 16 digits of its hash. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(value_type = String, pattern = "^[0-9a-f]{16}$"))]
pub struct TokenId(String);

impl FromStr for TokenId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        if is_hex(text, ID_DIGITS) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FormatError::new("id of a token", text, "16 of 0-9 a-f"))
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! texts {
    ($($name:ident)*) => {$(
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

texts! { TokenName TokenHash TokenId }

/// What is kept of a token: a row of the store, or a line of the file of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
    /// [`TokenHash::id`] of `hash`.
    pub id: TokenId,
    /// Its holder.
    pub name: TokenName,
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// What its holder may do.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The caller that made it.
    pub created_by: String,
    /// When it ends; absent: it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
}

impl TokenRecord {
    /// When it ended or ends: by its time, or because it was revoked.
    pub fn ends_at(&self) -> Option<DateTime<Utc>> {
        match (self.expires_at, self.revoked_at) {
            (Some(expires), Some(revoked)) => Some(expires.min(revoked)),
            (expires, revoked) => expires.or(revoked),
        }
    }

    /// Whether a token of these grants must not have this name, because this token has it and other
    /// grants. The order of grants does not count.
    pub fn keeps_from(&self, name: &TokenName, grants: &[Grant]) -> bool {
        let set = |grants: &[Grant]| grants.iter().cloned().collect::<HashSet<_>>();
        self.name == *name && set(&self.grants) != set(grants)
    }

    /// Checks what its type does not.
    ///
    /// # Errors
    /// When the id is of another token, or the grants are out of their limits.
    pub fn check(&self) -> Result<(), InvalidToken> {
        if self.id != self.hash.id() {
            return Err(InvalidToken::Id);
        }
        check_grants(&self.grants)
    }

    /// The record without its hash.
    pub fn info(&self) -> TokenInfo {
        TokenInfo {
            id: self.id.clone(),
            name: self.name.to_string(),
            grants: self.grants.clone(),
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// What is shown of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Names the token.
    pub id: TokenId,
    /// Its holder.
    pub name: String,
    /// What its holder may do.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The caller that made it.
    pub created_by: String,
    /// When it ends; absent: it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The holder: 1 to 64 of `A-Z a-z 0-9 . _ @ / -`.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, pattern = "^[A-Za-z0-9._@/-]{1,64}$"))]
    pub name: TokenName,
    /// What the holder may do, 1 to 32.
    #[cfg_attr(feature = "utoipa", schema(min_items = 1, max_items = 32))]
    pub grants: Vec<Grant>,
    /// Seconds until the token ends; absent: it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(minimum = 1, maximum = 316_224_000))]
    pub expires_in_seconds: Option<u64>,
}

impl TokenRequest {
    /// Checks what its type does not.
    ///
    /// # Errors
    /// When the grants or the life are out of their limits.
    pub fn check(&self) -> Result<(), InvalidToken> {
        check_grants(&self.grants)?;
        match self.expires_in_seconds {
            Some(seconds) if !(1..=MAX_LIFE_SECONDS).contains(&seconds) => Err(InvalidToken::Life),
            _ => Ok(()),
        }
    }
}

/// Answer to `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// The token. This answer is the only place that has it.
    pub token: String,
    /// What is kept of it.
    pub info: TokenInfo,
    /// Whether this publisher asks for credentials. Without it every caller has every right, with a
    /// token and without.
    pub enforced: bool,
}

/// Answer to `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Tokens {
    /// The tokens of the store that the caller may manage, the newest first.
    pub items: Vec<TokenInfo>,
}

/// Why a token cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// The id is not that of the hash.
    #[error("id: it is not the first 16 digits of the hash")]
    Id,
    /// No grant, or too many.
    #[error("grants: expected 1 to {MAX_GRANTS}")]
    Grants,
    /// A list of collections without a name would give nothing.
    #[error("grants: the collections of a grant are absent, or at least one name")]
    Collections,
    /// No id begins like this.
    #[error("grants: no id of a document begins with the idPrefix of a grant")]
    Prefix,
    /// The life is too long, or none.
    #[error("expiresInSeconds: expected 1 to {MAX_LIFE_SECONDS}")]
    Life,
}

/// Checks the grants of a holder.
///
/// # Errors
/// When there is none, there are too many, or one can never apply.
pub fn check_grants(grants: &[Grant]) -> Result<(), InvalidToken> {
    if !(1..=MAX_GRANTS).contains(&grants.len()) {
        return Err(InvalidToken::Grants);
    }
    for grant in grants {
        if grant
            .collections
            .as_ref()
            .is_some_and(|named| named.is_empty())
        {
            return Err(InvalidToken::Collections);
        }
        // The beginning of an id has the characters of an id.
        if let Some(prefix) = &grant.id_prefix
            && format!("{prefix}x").parse::<DocumentId>().is_err()
        {
            return Err(InvalidToken::Prefix);
        }
    }
    Ok(())
}

/// Whether a caller may give a grant to others: the one rule about that.
///
/// A caller gives rights only within the part (collections and ids) for which it has
/// [`Right::ManageTokens`], but there every role, also one that it does not have itself: to create the
/// writers of the service is the task of an operator. [`Right::AssertUser`] and [`Right::ReadSecrets`]
/// are given only by a caller that has them, because an operator must not get at them by a token that
/// it makes for itself.
pub fn may_give(caller: &Identity, grant: &Grant) -> bool {
    let is_within = |right: Right| {
        caller
            .grants
            .iter()
            .any(|own| own.role.rights().contains(&right) && contains(own, grant))
    };
    is_within(Right::ManageTokens)
        && KEPT
            .iter()
            .filter(|right| grant.role.rights().contains(right))
            .all(|right| is_within(*right))
}

/// Whether everything that is inside of one part is inside of another.
fn contains(outer: &Grant, inner: &Grant) -> bool {
    let collections = match (&outer.collections, &inner.collections) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.is_subset(outer),
    };
    let prefix = match (&outer.id_prefix, &inner.id_prefix) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.starts_with(outer.as_str()),
    };
    collections && prefix
}

/// Whether a right is given only by a caller that has it.
pub fn is_kept(right: Right) -> bool {
    KEPT.contains(&right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Role;

    fn grant(role: Role, collections: &[&str], id_prefix: Option<&str>) -> Grant {
        let names = collections.iter().map(|name| name.parse().expect("a name"));
        Grant {
            role,
            collections: (!collections.is_empty()).then(|| names.collect()),
            id_prefix: id_prefix.map(str::to_owned),
        }
    }

    fn caller(grants: &[Grant]) -> Identity {
        Identity {
            name: "token:a".into(),
            grants: grants.into(),
        }
    }

    #[test]
    fn an_operator_gives_every_role_but_those_that_it_must_not_get_at() {
        let operator = caller(&[Grant::everywhere(Role::Operator)]);
        for (role, expected) in [
            (Role::Reader, true),
            (Role::Publisher, true),
            (Role::Operator, true),
            (Role::Replica, true),
            (Role::Gateway, false),
            (Role::SecretReader, false),
        ] {
            assert_eq!(
                may_give(&operator, &Grant::everywhere(role)),
                expected,
                "{role:?}"
            );
        }
        assert!(may_give(
            &Identity::unrestricted(),
            &Grant::everywhere(Role::Gateway)
        ));
    }

    #[test]
    fn a_caller_gives_nothing_beyond_its_own_part() {
        let of_part = caller(&[
            grant(Role::Operator, &["A", "B"], Some("eu-")),
            Grant::everywhere(Role::Publisher),
        ]);
        for (given, expected) in [
            (grant(Role::Writer, &["A"], Some("eu-1")), true),
            (grant(Role::Writer, &["A"], Some("eu-")), true),
            (grant(Role::Writer, &["A"], Some("eu")), false),
            (grant(Role::Writer, &["A"], None), false),
            (grant(Role::Writer, &["A", "C"], Some("eu-")), false),
            (grant(Role::Writer, &[], Some("eu-")), false),
        ] {
            assert_eq!(may_give(&of_part, &given), expected, "{given:?}");
        }
        let publisher = caller(&[Grant::everywhere(Role::Publisher)]);
        assert!(!may_give(&publisher, &Grant::everywhere(Role::Reader)));
    }

    #[test]
    fn a_record_is_read_strictly() {
        let hash = "ab".repeat(32);
        let record = format!(
            r#"{{"id":"abababababababab","name":"a","hash":"{hash}","grants":[{{"role":"reader"}}],
            "createdAt":"2026-01-01T00:00:00Z","createdBy":"b"}}"#
        );
        let read: TokenRecord = serde_json::from_str(&record).expect("a record");
        assert_eq!(read.check(), Ok(()));
        // A misspelled end would be none.
        let error = serde_json::from_str::<TokenRecord>(&record.replace(&hash, "cct_secret"));
        assert!(!error.expect_err("no hash").to_string().contains("secret"));
        for wrong in [
            record.replace("createdBy", "expiresat"),
            record.replace("ababab", "ABabab"),
            record.replace("\"a\"", "\"a b\""),
        ] {
            assert!(
                serde_json::from_str::<TokenRecord>(&wrong).is_err(),
                "{wrong}"
            );
        }
        let other = record.replace(r#""id":"ab"#, r#""id":"1b"#);
        let other: TokenRecord = serde_json::from_str(&other).expect("a record");
        assert_eq!(other.check(), Err(InvalidToken::Id));
    }

    #[test]
    fn grants_that_can_never_apply_are_refused() {
        for (grants, error) in [
            (vec![], InvalidToken::Grants),
            (
                vec![Grant::everywhere(Role::Reader); 33],
                InvalidToken::Grants,
            ),
            (
                vec![grant(Role::Reader, &[], Some("a b"))],
                InvalidToken::Prefix,
            ),
            (
                vec![Grant {
                    collections: Some([].into()),
                    ..Grant::everywhere(Role::Reader)
                }],
                InvalidToken::Collections,
            ),
        ] {
            assert_eq!(check_grants(&grants), Err(error));
        }
    }
}
