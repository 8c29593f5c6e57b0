//! What proves where data came from.

use contract::{
    access::Grant,
    audit::{AuditCursor, AuditRecord, verify::Verifier},
    objects,
    signature::{EventSignature, KeyId, PublicKeys, ValueHash},
};

use crate::texts::round;

/// Files of tokens and of keys, and the texts of signatures.
pub fn keys(bytes: &[u8]) {
    drop(objects::from_slice::<Grant>(bytes));
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    drop(PublicKeys::from_pem(text));
    round::<KeyId>(text);
    round::<EventSignature>(text);
    round::<ValueHash>(text);
    round::<AuditCursor>(text);
}

/// Lines of an audit log: one that was changed is never taken for what was written.
pub fn audit(bytes: &[u8]) {
    let mut verifier = Verifier::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        drop(verifier.add(line));
    }
    drop(verifier.finish());
    drop(objects::from_slice::<AuditRecord>(bytes));
}
