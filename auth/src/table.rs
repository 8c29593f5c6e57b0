//! Records of tokens, found by the token.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use contract::{
    access::{Grant, Identity},
    objects,
    token::{InvalidToken, MAX_TOKENS, PREFIX, TokenHash, TokenName, TokenRecord},
};

use crate::{Refused, token};

/// Valid and ended tokens, by their hash.
///
/// The look-up compares hashes and takes not quite the same time for each. That tells nothing: which
/// hash is compared is decided by SHA-256 of what the caller sent, so a caller cannot choose a hash
/// that comes closer to a stored one, and from a hash no token can be found.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    tokens: HashMap<TokenHash, Entry>,
    /// Several tokens have one name while one replaces another.
    by_name: HashMap<TokenName, Vec<TokenHash>>,
}

#[derive(Debug)]
struct Entry {
    identity: Identity,
    record: TokenRecord,
}

/// What a file or a store has of tokens.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// A line is no record.
    #[error("line {line}: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// The fault.
        error: String,
    },
    /// Too many.
    #[error("more than {MAX_TOKENS} tokens")]
    TooMany,
}

impl TokenTable {
    /// The records of a store. One that contradicts itself is left out.
    pub(crate) fn of(records: impl IntoIterator<Item = TokenRecord>) -> Self {
        let whole = records.into_iter().filter(|record| record.check().is_ok());
        Self::new(whole.map(entry).collect())
    }

    fn new(tokens: HashMap<TokenHash, Entry>) -> Self {
        let mut by_name = HashMap::<_, Vec<_>>::new();
        for (hash, entry) in &tokens {
            let name = entry.record.name.clone();
            by_name.entry(name).or_default().push(hash.clone());
        }
        Self { tokens, by_name }
    }

    /// The records of a file: one JSON object in each line. Empty lines, and lines that begin with
    /// `#`, are left out.
    ///
    /// # Errors
    /// For the first line that is no record: a file is taken as a whole or not at all.
    pub(crate) fn read(text: &str) -> Result<Self, RecordsError> {
        let mut found = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line_of = |error: String| RecordsError::Line {
                line: index + 1,
                error,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with(PREFIX) {
                return Err(line_of(
                    "it is a token: expected its record, a JSON object. `confcast token create \
                     --offline` prints the token and writes the record"
                        .to_owned(),
                ));
            }
            let record: TokenRecord = objects::from_str(line)
                // The parser sees one line, so the line that it names says nothing.
                .map_err(|error| {
                    line_of(
                        error
                            .to_string()
                            .replace(" at line 1 column ", " at column "),
                    )
                })?;
            record
                .check()
                .map_err(|error: InvalidToken| line_of(error.to_string()))?;
            let (hash, entry) = entry(record);
            if found.insert(hash, entry).is_some() {
                return Err(line_of("the token is there twice".to_owned()));
            }
            if found.len() > MAX_TOKENS {
                return Err(RecordsError::TooMany);
            }
        }
        Ok(Self::new(found))
    }

    /// Whether a token of it is accepted now.
    pub(crate) fn has_valid(&self, now: DateTime<Utc>) -> bool {
        let mut records = self.tokens.values().map(|entry| &entry.record);
        records.any(|record| {
            record.revoked_at.is_none() && record.expires_at.is_none_or(|end| end > now)
        })
    }

    /// The holder of a token; `None` when it is not here.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn find(
        &self,
        hash: &TokenHash,
        now: DateTime<Utc>,
    ) -> Option<Result<Identity, Refused>> {
        let entry = self.tokens.get(hash)?;
        let ended = |how: &str| Refused::Invalid(format!("the token {} {how}", hash.id()));
        Some(if entry.record.revoked_at.is_some() {
            Err(ended("was revoked"))
        } else if entry.record.expires_at.is_some_and(|end| end <= now) {
            Err(ended("has expired"))
        } else {
            Ok(entry.identity.clone())
        })
    }

    /// The holder of a valid token of this name; `None` when there is none.
    pub(crate) fn named(&self, name: &str, now: DateTime<Utc>) -> Option<Identity> {
        let name: TokenName = name.parse().ok()?;
        let mut hashes = self.by_name.get(&name)?.iter();
        hashes.find_map(|hash| self.find(hash, now)?.ok())
    }

    /// As [`TokenRecord::keeps_from`], for any of them.
    pub(crate) fn keeps_from(&self, name: &TokenName, grants: &[Grant]) -> bool {
        let mut records = self.tokens.values().map(|entry| &entry.record);
        records.any(|record| record.keeps_from(name, grants))
    }
}

fn entry(record: TokenRecord) -> (TokenHash, Entry) {
    let entry = Entry {
        identity: Identity {
            name: format!("token:{}", record.name).into(),
            grants: record.grants.clone().into(),
        },
        record,
    };
    (entry.record.hash.clone(), entry)
}

/// The hash of a token that a caller sent.
///
/// # Errors
/// When it is no token: it was cut or mistyped.
pub(crate) fn hash_of(text: &str) -> Result<TokenHash, Refused> {
    if token::is_well_formed(text) {
        Ok(token::hash(text))
    } else {
        let detail = "the token is not whole: its checksum does not fit";
        Err(Refused::Invalid(detail.to_owned()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use contract::access::{Grant, Role};

    use super::*;
    use crate::SecretToken;

    pub(crate) fn record(token: &SecretToken, name: &str) -> TokenRecord {
        TokenRecord {
            id: token.hash().id(),
            name: name.parse().expect("a name"),
            hash: token.hash(),
            grants: vec![Grant::everywhere(Role::Reader)],
            created_at: Utc::now(),
            created_by: "here".to_owned(),
            expires_at: None,
            revoked_at: None,
        }
    }

    fn line(record: &TokenRecord) -> String {
        serde_json::to_string(record).expect("JSON")
    }

    #[test]
    fn a_token_in_place_of_its_record_is_named_and_not_shown() {
        let token = SecretToken::generate();
        for (text, said) in [
            (
                token.expose().to_owned(),
                "line 1: it is a token: expected its record",
            ),
            (
                format!("# a\n\n{}x", token.expose()),
                "line 3: it is a token",
            ),
            ("{\"id\": \"1\"}".to_owned(), "at column"),
        ] {
            let error = TokenTable::read(&text).expect_err(said).to_string();
            assert!(
                error.contains(said) && !error.contains(token.expose()),
                "{error}"
            );
            assert_eq!(error.matches("line ").count(), 1, "{error}");
        }
    }

    #[test]
    fn a_token_is_found_until_it_ends() {
        let now = Utc::now();
        let tokens: Vec<_> = (0..4).map(|_| SecretToken::generate()).collect();
        let [mut valid, mut expired, mut revoked] =
            [0, 1, 2].map(|index| record(&tokens[index], "a"));
        valid.expires_at = Some(now + chrono::TimeDelta::seconds(1));
        expired.expires_at = Some(now);
        revoked.revoked_at = Some(now);
        let text = [valid, expired, revoked].map(|record| line(&record));
        let table = TokenTable::read(&format!("# tokens\n\n{}\n", text.join("\n")));
        let table = table.expect("three records");
        let found = |index: usize| table.find(&tokens[index].hash(), now);
        let valid = found(0).expect("the first").expect("valid");
        assert_eq!(&*valid.name, "token:a");
        for (index, word) in [(1, "expired"), (2, "revoked")] {
            let refused = found(index).expect("known").expect_err(word).to_string();
            assert!(refused.ends_with(word), "{refused}");
        }
        assert_eq!(found(3), None);
    }

    #[test]
    fn a_file_with_one_wrong_line_is_refused_as_a_whole() {
        let token = SecretToken::generate();
        let good = line(&record(&token, "a"));
        for (text, number) in [
            (format!("{good}\n{good}"), 2),
            (format!("{good}\nx"), 2),
            (good.replace("reader", "readers"), 1),
            (
                good.replace(r#""grants":[{"role":"reader"}]"#, r#""grants":[]"#),
                1,
            ),
            // The token in place of its hash.
            (good.replace(token.hash().as_str(), token.expose()), 1),
        ] {
            let error = TokenTable::read(&text).expect_err("a wrong line");
            assert!(
                matches!(error, RecordsError::Line { line, .. } if line == number),
                "{error}"
            );
        }
    }
}
