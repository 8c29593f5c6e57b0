//! The numbers of everything that outlives a process or crosses it: the one list of them, which
//! `docs/operations/upgrade.md` shows. A number is raised when a program of the version before could
//! not read what is written; what a reader may ignore is no new number. Nothing here reads or writes.

use std::fmt;

/// Between processes: the HTTP API, the feed, snapshots, check-ins and events. A program speaks with
/// those of the number before, too.
pub const PROTOCOL: u32 = 1;
/// Both stores of a publisher.
pub const STORE: u64 = 3;
/// The copy of its documents that a replica keeps on disk.
pub const IMAGE: u32 = 1;
/// The file of `confcast backup create`.
pub const BACKUP: u64 = 1;
/// The form of a sealed secret value.
pub const SECRET: u32 = 1;
/// What the signature of an event is made over.
pub const SIGNATURE: u32 = 1;
/// What the hash of an audit record is made over.
pub const AUDIT: u32 = 1;

/// A format, in a word, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What it is the format of.
    pub name: &'static str,
    /// The number that this version writes.
    pub number: u64,
}

/// Every format.
pub const ALL: [Format; 7] = [
    Format::new("protocol", PROTOCOL as u64),
    Format::new("store", STORE),
    Format::new("copy of a replica", IMAGE as u64),
    Format::new("backup", BACKUP),
    Format::new("secret", SECRET as u64),
    Format::new("signature", SIGNATURE as u64),
    Format::new("audit record", AUDIT as u64),
];

impl Format {
    const fn new(name: &'static str, number: u64) -> Self {
        Self { name, number }
    }
}

/// The store has a format that this version does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct OtherStoreError {
    /// The format of the store.
    pub format: u64,
}

/// Checks that this version reads a store of a format.
///
/// # Errors
/// When it is another one. The text names the remedy.
pub fn check_store(format: u64) -> Result<(), OtherStoreError> {
    if format == STORE {
        Ok(())
    } else {
        Err(OtherStoreError { format })
    }
}

impl fmt::Display for OtherStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format } = self;
        write!(
            f,
            "the format of the store is {format}; this version reads only {STORE}"
        )?;
        if *format > STORE {
            f.write_str(
                ", and nothing was changed: it was written by a later version, so start that one \
                 again, or restore a backup from before the upgrade into another store",
            )
        } else {
            f.write_str(
                ", and nothing was changed: it was written by an earlier version, so make a backup \
                 (or an export) with that one, and restore it with this one into another store",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_elsewhere_has_the_numbers_of_the_list() {
        assert_eq!(crate::secrets::SEALED_PREFIX, format!("v{SECRET}."));
        assert_eq!(
            crate::signature::DOMAIN,
            format!("confcast event {SIGNATURE}\0").as_bytes()
        );
        assert_eq!(
            crate::audit::DOMAIN,
            format!("confcast audit record {AUDIT}\n").as_bytes()
        );
    }

    #[test]
    fn another_format_is_refused_with_the_remedy() {
        assert_eq!(check_store(STORE), Ok(()));
        for (format, remedy) in [
            (STORE + 1, "later version"),
            (STORE - 1, "earlier version"),
            (u64::MAX, "restore a backup"),
        ] {
            let text = check_store(format).expect_err("another one").to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }
}
