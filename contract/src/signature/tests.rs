//! One member changed: refused. Two different statements: different bytes. Keys of OpenSSL: read.

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{change::SetPart, ids::Crc};

/// A statement that owns its members.
#[derive(Debug, Clone, PartialEq)]
struct Owned {
    collection: CollectionName,
    op: Operation,
    id: DocumentId,
    revision: Revision,
    epoch: Epoch,
    last_set: Revision,
    value: Option<ValueHash>,
    change_set: Option<ChangeSet>,
    proof: Option<Proof>,
}

impl Owned {
    fn statement(&self) -> Statement<'_> {
        Statement {
            collection: &self.collection,
            op: self.op,
            id: &self.id,
            revision: self.revision,
            epoch: self.epoch,
            last_set: self.last_set,
            value: self.value,
            change_set: self.change_set.as_ref(),
            proof: self.proof,
        }
    }
}

/// Few values of each member, so that many pairs differ in one member alone.
fn statements() -> impl Strategy<Value = Owned> {
    let collection = || {
        prop_oneof![Just("A"), Just("AB"), Just("B")]
            .prop_map(|name| name.parse::<CollectionName>().expect("a name"))
    };
    let number = || prop_oneof![Just(0_u64), Just(1), Just(256), any::<u64>()];
    let op = prop_oneof![
        Just(Operation::Create),
        Just(Operation::Update),
        Just(Operation::Delete)
    ];
    let id = prop_oneof![Just("a"), Just("Ba"), Just("a-1")]
        .prop_map(|id| id.parse::<DocumentId>().expect("an id"));
    let epoch = (0_u32..2, 1_u64..3).prop_map(|(lineage, counter)| Epoch { lineage, counter });
    let value = option::of((0_u8..2).prop_map(|byte| ValueHash([byte; 32])));
    let part = (collection(), number(), number()).prop_map(|(collection, first, last)| SetPart {
        collection,
        first,
        last,
    });
    let set = option::of(
        (
            prop_oneof![Just(""), Just("s"), Just("sA")],
            vec(part, 0..3),
        )
            .prop_map(|(id, parts)| ChangeSet {
                id: id.to_owned(),
                parts,
            }),
    );
    let proof = option::of((0_u32..2, 0_u8..2).prop_map(|(crc, byte)| Proof {
        crc: Crc(crc),
        code: [byte; 16],
    }));
    (
        (collection(), op, id),
        (number(), epoch, number()),
        (value, set, proof),
    )
        .prop_map(
            |((collection, op, id), (revision, epoch, last_set), (value, change_set, proof))| {
                Owned {
                    collection,
                    op,
                    id,
                    revision,
                    epoch,
                    last_set,
                    value,
                    change_set,
                    proof,
                }
            },
        )
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32])
}

proptest! {
    #[test]
    fn two_different_statements_have_different_bytes(one in statements(), other in statements()) {
        let bytes = [&one, &other].map(|owned| owned.statement().encode());
        prop_assert_eq!(bytes[0] == bytes[1], one == other);
        // None is the beginning of another.
        prop_assert!(one == other || !bytes[0].starts_with(&bytes[1]));
    }

    #[test]
    fn a_signature_is_of_its_statement_alone(one in statements(), other in statements()) {
        let (key, keys) = (key(1), key(1).public());
        let signature = key.sign(&one.statement());
        prop_assert_eq!(keys.verify(&one.statement(), Some(&signature)), Ok(()));
        let refused = Err(UnprovenEvent::WrongSignature(key.id()));
        let expected = if one == other { Ok(()) } else { refused };
        prop_assert_eq!(keys.verify(&other.statement(), Some(&signature)), expected);
    }

    #[test]
    fn each_changed_bit_of_a_signature_is_refused(owned in statements(), bit in 0_usize..512) {
        let key = key(1);
        let mut signature = key.sign(&owned.statement());
        signature.bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(key.public().verify(&owned.statement(), Some(&signature)).is_err());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,120}") {
        if let Ok(signature) = text.parse::<EventSignature>() {
            prop_assert_eq!(signature.to_string(), text);
        }
    }
}

#[test]
fn a_changed_member_is_refused() {
    let set = |id: &str, collection: &str, first, last| {
        Some(ChangeSet {
            id: id.to_owned(),
            parts: vec![SetPart {
                collection: collection.parse().expect("a name"),
                first,
                last,
            }],
        })
    };
    let epoch = |text: &str| text.parse().expect("an epoch");
    let value = |text: &str| CanonicalJson::parse(text.as_bytes()).expect("json");
    let proof = |digit: &str| Some(digit.repeat(40).parse().expect("a proof"));
    let signed = Owned {
        collection: "A".parse().expect("a name"),
        op: Operation::Create,
        id: "x".parse().expect("an id"),
        revision: 7,
        epoch: epoch("0000000a-1"),
        last_set: 5,
        value: Some(ValueHash::of(&value(r#"{"n":1}"#))),
        change_set: set("s", "A", 7, 8),
        proof: proof("1"),
    };
    type Change = fn(&mut Owned);
    let changes: [(&str, Change); 4] = [
        ("collection", |it| {
            it.collection = "B".parse().expect("a name")
        }),
        ("op", |it| it.op = Operation::Delete),
        ("id", |it| it.id = "y".parse().expect("an id")),
        ("revision", |it| it.revision = 8),
    ];
    let mut changed: Vec<(&str, Owned)> = changes
        .into_iter()
        .map(|(what, change)| {
            let mut changed = signed.clone();
            change(&mut changed);
            (what, changed)
        })
        .collect();
    let with = |change: &dyn Fn(&mut Owned)| {
        let mut changed = signed.clone();
        change(&mut changed);
        changed
    };
    changed.extend([
        ("counter", with(&|it| it.epoch = epoch("0000000a-2"))),
        ("lineage", with(&|it| it.epoch = epoch("0000000b-1"))),
        ("last set", with(&|it| it.last_set = 6)),
        (
            "value",
            with(&|it| it.value = Some(ValueHash::of(&value(r#"{"n":2}"#)))),
        ),
        ("no value", with(&|it| it.value = None)),
        ("set id", with(&|it| it.change_set = set("t", "A", 7, 8))),
        ("set part", with(&|it| it.change_set = set("s", "B", 7, 8))),
        ("set first", with(&|it| it.change_set = set("s", "A", 6, 8))),
        ("set last", with(&|it| it.change_set = set("s", "A", 7, 9))),
        ("no set", with(&|it| it.change_set = None)),
        ("proof", with(&|it| it.proof = proof("2"))),
        ("no proof", with(&|it| it.proof = None)),
    ]);
    let signature = key(1).sign(&signed.statement());
    let keys = key(2).public().with(&key(1).public());
    assert_eq!(keys.verify(&signed.statement(), Some(&signature)), Ok(()));
    for (what, changed) in &changed {
        let verified = keys.verify(&changed.statement(), Some(&signature));
        assert_eq!(
            verified,
            Err(UnprovenEvent::WrongSignature(key(1).id())),
            "{what}"
        );
    }
    let only_other = keys.clone().without(key(1).id());
    assert_eq!(
        only_other.verify(&signed.statement(), Some(&signature)),
        Err(UnprovenEvent::UnknownKey(key(1).id()))
    );
    assert_eq!(
        keys.verify(&signed.statement(), None),
        Err(UnprovenEvent::Unsigned)
    );
    // A signature that names another known key.
    let named = EventSignature {
        key: key(2).id(),
        ..signature
    };
    assert!(keys.verify(&signed.statement(), Some(&named)).is_err());
}

/// The encoding is fixed: a publisher and a replica of different versions must agree.
#[test]
fn the_bytes_of_a_statement_do_not_change() {
    let owned = Owned {
        collection: "A".parse().expect("a name"),
        op: Operation::Update,
        id: "x".parse().expect("an id"),
        revision: 7,
        epoch: "0000000a-1".parse().expect("an epoch"),
        last_set: 5,
        value: Some(ValueHash::of(&CanonicalJson::parse(b"{}").expect("json"))),
        change_set: None,
        proof: None,
    };
    let signature = key(7).sign(&owned.statement());
    assert_eq!(signature.to_string(), KNOWN);
    assert_eq!(KNOWN.len(), 103);
    assert_eq!(KNOWN.parse(), Ok(signature));
    for bad in [
        "",
        ".",
        &KNOWN[1..],
        &KNOWN[..102],
        &KNOWN.replace('.', ":"),
        &format!("{KNOWN}="),
    ] {
        assert!(bad.parse::<EventSignature>().is_err(), "{bad}");
    }
}

const KNOWN: &str = "fe812c12f3ab4ce6.\
    2rUUxYEEtdvtEPxgr3k5q6wOx_zfs30il72JlWCXJswGSiACbvAM-UsohZ3-9H9XJEBi3sp_g7L1-9N92s5-Dw";

/// A key pair of these tests alone, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` wrote them.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIC3fSP7epcZZ2s2Cv7XBlb4Wb0xY69IRjz8HvzgHoTtM\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAMX3YZsbqH0NBktnYCATshN3r7wM5g+klQb+z0Mm4TYI=\n-----END PUBLIC KEY-----\n";

#[test]
fn keys_of_openssl_are_read_and_written() {
    let key = SigningKey::from_pem(PRIVATE).expect("a private key");
    assert_eq!(key.to_pem().expect("pem"), PRIVATE);
    let public = PublicKeys::from_pem(PUBLIC).expect("a public key");
    assert_eq!(public, key.public());
    assert!(public.to_pem().expect("pem").ends_with(PUBLIC));
    assert_eq!(public.ids().collect::<Vec<_>>(), [key.id()]);
    assert!(!format!("{key:?}").contains(&PRIVATE[60..80]), "{key:?}");
}

#[test]
fn a_file_of_public_keys_has_some_and_no_private_one() {
    let [one, two] = [1, 2].map(|byte| key(byte).public().to_pem().expect("pem"));
    let both = PublicKeys::from_pem(&format!("# keys\n{one}\n{two}{one}# end")).expect("keys");
    assert_eq!(both.ids().collect::<Vec<_>>(), [key(1).id(), key(2).id()]);
    let cut = one.replace("BEGIN", "BEGUN");
    let other = one.replace('A', "");
    let many: String = (0..=MAX_KEYS)
        .map(|byte| key(byte as u8).public().to_pem().expect("pem"))
        .collect();
    // The neutral point: y = 1.
    let weak = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    );
    for (text, error) in [
        ("", KeyError::NoKeys),
        ("nothing", KeyError::NoKeys),
        (&*cut, KeyError::NotPublic(1)),
        (&*other, KeyError::NotPublic(1)),
        (&*format!("{one}{cut}"), KeyError::NotPublic(2)),
        (&*weak, KeyError::NotPublic(1)),
        (&*many, KeyError::TooMany),
        (&*format!("{one}{PRIVATE}"), KeyError::HasPrivate),
    ] {
        assert_eq!(PublicKeys::from_pem(text), Err(error), "{text}");
    }
    for text in ["", PUBLIC, &PRIVATE[..100]] {
        assert!(SigningKey::from_pem(text).is_err());
    }
}
