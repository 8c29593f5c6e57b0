//! Sealing and opening, over arbitrary values, places and texts.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{keys::tests::keyring, system_entropy};

fn names() -> (CollectionName, DocumentId) {
    (
        "Doors".parse().expect("a name"),
        "d1".parse().expect("an id"),
    )
}

fn seal(value: &Value, place: Place<'_>, revision: Revision, keys: &Keyring) -> String {
    let sealed = Sealed::seal(&Plain::of(value), place, revision, keys, system_entropy);
    sealed.expect("sealed").to_string()
}

fn open(text: &str, place: Place<'_>, keys: &Keyring) -> Result<Value, OpenError> {
    let plain = text.parse::<Sealed>()?.open(place, keys)?;
    Ok(plain.to_value().expect("JSON"))
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_sealed_value_opens_at_its_place_and_nowhere_else(value in any_value(), revision: u32) {
        let (collection, id) = names();
        let keys = keyring(&["a"]);
        let place = Place { collection: &collection, id: &id, pointer: "/p" };
        let revision = Revision::from(revision);
        let text = seal(&value, place, revision, &keys);
        prop_assert_eq!(open(&text, place, &keys), Ok(value.clone()));
        prop_assert!(text.len() <= Sealed::max_len(value.to_string().len()));
        let (other, id2) = ("Doors2".parse().expect("a name"), "d2".parse().expect("an id"));
        for wrong in [
            Place { collection: &other, ..place },
            Place { id: &id2, ..place },
            Place { pointer: "/q", ..place },
        ] {
            prop_assert_eq!(open(&text, wrong, &keys), Err(OpenError::Refused));
        }
        let moved = text.replacen(
            &format!(".{revision}."), &format!(".{}.", revision + 1), 1);
        prop_assert_eq!(open(&moved, place, &keys), Err(OpenError::Refused));
    }

    #[test]
    fn no_changed_character_opens(at in 0_usize..400, with in "[A-Za-z0-9_.-]") {
        let (collection, id) = names();
        let keys = keyring(&["a"]);
        let place = Place { collection: &collection, id: &id, pointer: "/p" };
        let text = seal(&json!("hunter2"), place, 3, &keys);
        let at = at % text.len();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        if changed != text {
            prop_assert!(open(&changed, place, &keys).is_err(), "{}", changed);
        }
    }

    #[test]
    fn a_wrong_text_is_refused_and_never_panics(text in "(v1)?[.]?.{0,200}") {
        let (collection, id) = names();
        let place = Place { collection: &collection, id: &id, pointer: "" };
        prop_assert!(open(&text, place, &keyring(&["a"])).is_err());
    }
}

#[test]
fn a_value_is_wrapped_again_by_the_active_key_without_being_changed() {
    let (collection, id) = names();
    let place = Place {
        collection: &collection,
        id: &id,
        pointer: "/p",
    };
    let old = keyring(&["old"]);
    let text = seal(&json!("hunter2"), place, 9, &old);
    let both = keyring(&["new", "old"]);
    let sealed: Sealed = text.parse().expect("a form");
    let again = sealed
        .rewrap(place, &both, system_entropy)
        .expect("wrapped");
    assert_eq!((again.key().as_str(), again.revision()), ("new", 9));
    let new = keyring(&["new"]);
    assert_eq!(open(&again.to_string(), place, &new), Ok(json!("hunter2")));
    assert_eq!(
        open(&again.to_string(), place, &old),
        Err(OpenError::UnknownKey("new".parse().expect("an id")))
    );
}

#[test]
fn neither_the_length_nor_the_debug_form_shows_a_short_password() {
    let (collection, id) = names();
    let keys = keyring(&["a"]);
    let place = Place {
        collection: &collection,
        id: &id,
        pointer: "/p",
    };
    let texts = ["a", "hunter2", "a password of 29 characters.."].map(|password| {
        let text = seal(&json!(password), place, 3, &keys);
        let sealed: Sealed = text.parse().expect("a form");
        let plain = sealed.open(place, &keys).expect("opened");
        assert_eq!(format!("{sealed:?} {plain:?}"), "Sealed(a, 3) Plain");
        text.len()
    });
    assert!(texts.iter().all(|length| *length == texts[0]), "{texts:?}");
}
