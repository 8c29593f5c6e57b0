//! JSON Schemas of the types whose wire form cannot be derived: names, numbers that are written as
//! text, and documents.
//!
//! The schemas describe and check nothing: a value is checked where it is parsed.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{AdditionalProperties, AnyOfBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::{
    canonical::CanonicalJson,
    dead_letter::DeadLetterId,
    document::Document,
    expected::Expected,
    head::Head,
    history::SnapshotName,
    ids::{CollectionName, Crc, Digest, DocumentId, Epoch, Lineage, Revision},
    problem::{Current, CurrentDocument},
    proof::Proof,
    rollback::RollbackExpected,
    signature::{EventSignature, KeyId, ValueHash},
    snapshot::SnapshotItem,
};

macro_rules! texts {
    ($($name:ident, $pattern:literal, $example:literal, $description:literal;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern));
                text.description(Some($description)).examples([$example]).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

texts! {
    CollectionName, "^[A-Za-z][A-Za-z0-9_]{0,63}$", "ChannelConfiguration", "A letter, then at most 63 of A-Z a-z 0-9 _";
    DocumentId, "^(?!\\.{1,2}$)[A-Za-z0-9._:-]{1,128}$", "whatsapp-es", "1 to 128 of A-Z a-z 0-9 . _ : - but not . or ..";
    Epoch, "^[0-9a-f]{8}-[1-9][0-9]{0,18}$", "9f86d081-1", "Which history a revision counts in: 8 hexadecimal digits, a dash, and a number from 1";
    Lineage, "^[0-9a-f]{8}$", "9f86d081", "The first part of an epoch";
    Crc, "^[0-9a-f]{8}$", "6a4d3f2e", "CRC-32C of the canonical value";
    Proof, "^[0-9a-f]{40}$", "6a4d3f2e000102030405060708090a0b0c0d0e0f", "Proof that a revision was committed; hand it back as it is";
    SnapshotName, "^(?!\\.{1,2}$)[A-Za-z0-9._-]{1,64}$", "before-release-7", "1 to 64 of A-Z a-z 0-9 . _ - but not . or ..";
    DeadLetterId, "^[0-9a-f]{32}$", "9f86d081884c7d659a2feaa0c55ad015", "Name of a dead letter";
    KeyId, "^[0-9a-f]{16}$", "fe812c12f3ab4ce6", "Name of a key pair: the first 8 bytes of the SHA-256 of its public key";
    EventSignature, "^[0-9a-f]{16}\\.[A-Za-z0-9_-]{86}$", "fe812c12f3ab4ce6.2rUUxYEEtdvtEPxgr3k5q6wOx_zfs30il72JlWCXJswGSiACbvAM-UsohZ3-9H9XJEBi3sp_g7L1-9N92s5-Dw", "A key id and the Ed25519 signature of the event";
    ValueHash, "^[A-Za-z0-9_-]{43}$", "RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o", "SHA-256 of the canonical value";
    Digest, "^[0-9a-f]{16}$", "0000000000000000", "Sum over the live documents, in any order";
}

/// A state that is expected: a revision, or a text.
fn expected(state: &str, revision: &str, pattern: &str, text: &str) -> RefOr<Schema> {
    let revision = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .description(Some(revision));
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .description(Some(text));
    let forms = OneOfBuilder::new().item(revision).item(text);
    forms.description(Some(state)).into()
}

impl PartialSchema for Expected {
    fn schema() -> RefOr<Schema> {
        expected(
            "The state that the document must have",
            "The document has this revision; 0: it does not exist",
            "^(any|absent|present|[0-9]{1,19}(-[0-9a-f]{8})?)$",
            "`<revision>-<crc>` is the entity tag without its quotes",
        )
    }
}

impl ToSchema for Expected {}

impl PartialSchema for RollbackExpected {
    fn schema() -> RefOr<Schema> {
        expected(
            "The state that the rollback changes",
            "Revision of the document, or of the present epoch",
            "^([0-9]{1,19}(-[0-9a-f]{8})?|[0-9a-f]{8}-[1-9][0-9]{0,18}-[0-9]{1,19})$",
            "`<revision>-<crc>` of a document, `<epoch>-<revision>` of a collection",
        )
    }
}

impl ToSchema for RollbackExpected {}

impl PartialSchema for Current {
    fn schema() -> RefOr<Schema> {
        // Not an optional member: `null` says that there is no document.
        let absent = ObjectBuilder::new().schema_type(Type::Null);
        let forms = AnyOfBuilder::new()
            .item(Ref::from_schema_name(CurrentDocument::name()))
            .item(absent);
        forms
            .description(Some("The document that is there; null when none is"))
            .into()
    }
}

impl ToSchema for Current {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((CurrentDocument::name().into(), CurrentDocument::schema()));
        CurrentDocument::schemas(schemas);
    }
}

impl PartialSchema for CanonicalJson {
    fn schema() -> RefOr<Schema> {
        // Said, because generators take an object without members for one that has none.
        let value = ObjectBuilder::new()
            .schema_type(Type::Object)
            .additional_properties(Some(AdditionalProperties::FreeForm(true)));
        value
            .description(Some(
                "A document: any JSON object of up to 1 MiB, with integers of up to 64 bits and no NUL in a key",
            ))
            .into()
    }
}

impl ToSchema for CanonicalJson {
    fn name() -> Cow<'static, str> {
        "ConfigData".into()
    }
}

/// The JSON of [`Document::json`].
#[derive(ToSchema)]
#[schema(as = Document, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Spelled {
    /// Its id.
    id: DocumentId,
    /// The revision that gave it this value; 0 when its publisher has no revisions.
    revision: Revision,
    /// Checksum of `configData`.
    crc: Crc,
    /// Its value.
    config_data: CanonicalJson,
}

impl PartialSchema for Document {
    fn schema() -> RefOr<Schema> {
        Spelled::schema()
    }
}

impl ToSchema for Document {
    fn name() -> Cow<'static, str> {
        Spelled::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Spelled::schemas(schemas);
    }
}

/// The line of a [`SnapshotItem`].
#[derive(ToSchema)]
#[schema(as = SnapshotItem, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct SpelledItem {
    /// Its collection.
    collection: CollectionName,
    /// Its id.
    id: DocumentId,
    /// The revision that gave it this value.
    revision: Revision,
    /// Checksum of `config_data`.
    crc: Crc,
    /// Its value.
    config_data: CanonicalJson,
}

impl PartialSchema for SnapshotItem {
    fn schema() -> RefOr<Schema> {
        SpelledItem::schema()
    }
}

impl ToSchema for SnapshotItem {
    fn name() -> Cow<'static, str> {
        SpelledItem::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SpelledItem::schemas(schemas);
    }
}

/// All documents of a collection, as one JSON object.
#[derive(Debug, ToSchema)]
pub struct DocumentList {
    /// Head of the collection; absent when its publisher has no revisions.
    #[schema(required = false)]
    pub head: Option<Head>,
    /// Its documents, by id.
    pub items: Vec<Document>,
}

/// The first line of a list as newline-delimited JSON; documents follow, and the end line of a
/// snapshot.
#[derive(Debug, ToSchema)]
pub struct ListStart {
    /// Head of the collection.
    pub head: Head,
}
