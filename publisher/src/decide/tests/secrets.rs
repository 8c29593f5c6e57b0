//! Secret values (`x-secret`): sealed when they are committed, kept when their sealed form comes back,
//! refused in every other place.

use std::sync::Arc;

use ::secrets::{KeyProvider, SecretKeys};
use contract::secrets::{sealed_text, sealed_values};

use super::*;
use crate::decide::schemas::Schema;

const CANARY: &str = "hunter2-canary";

/// Keys with these ids, the first of them active.
fn keys(ids: &[&str]) -> Sealing {
    let texts: Vec<_> = ids
        .iter()
        .map(|id| {
            // 32 bytes as base64, another key for each id.
            let letter = id.chars().next().expect("an id");
            format!("{id:?}: \"{}=\"", String::from(letter).repeat(42) + "A")
        })
        .collect();
    let text = format!(
        r#"{{"active": {:?}, "keys": {{{}}}}}"#,
        ids[0],
        texts.join(",")
    );
    let provider = KeyProvider::Environment(text.into());
    Sealing::with_keys(Arc::new(SecretKeys::read(provider).expect("keys")))
}

fn secret_rules(secrets: Sealing) -> Rules {
    let schema = json!({
        "properties": {
            "password": {"type": "string", "minLength": 3, "x-secret": true},
            "login": {
                "x-secret": true, "type": "object",
                "properties": {"user": {"type": "string"}}, "additionalProperties": false
            },
            "servers": {"items": {"properties": {"token": {"type": "string", "x-secret": true}}}},
            "ports": {"additionalProperties": {"x-secret": true}},
            "port": {"type": "integer"},
            "vault": {"x-secret-ref": true},
        },
    });
    let schema = Schema::new(&name(), schema.to_string().into(), None).expect("a schema");
    Rules {
        schemas: Schemas::new([(name(), Arc::new(schema))].into()),
        document_limit: 20_000,
        secrets,
    }
}

/// A store with one document `d`, and the rules.
struct World {
    rules: Rules,
    store: WorkingSet,
}

impl World {
    fn new(secrets: Sealing) -> Self {
        Self {
            rules: secret_rules(secrets),
            store: empty_store(),
        }
    }

    /// Commits a write, checked before as in a request if `ahead`. Gives the stored value, and whether
    /// it changed.
    fn commit(&mut self, action: Action, ahead: bool) -> Result<(Value, bool), WriteError> {
        let mut write = write_one("d", action, Expected::Any);
        let stored = self.store.documents.get(&write.key()).cloned();
        if ahead {
            write.checked = self.rules.check_ahead(&write, stored.as_ref())?;
        }
        let shown = format!("{:?}", write.checked);
        assert!(!shown.contains(CANARY), "{shown}");
        let group = [Command::Single(write)];
        let mut decisions = self.rules.evaluate(self.store.clone(), &group, Utc::now());
        let outcome = decisions.results.pop().expect("a result")?;
        for change in &decisions.changes {
            let text = serde_json::to_string(change).expect("JSON");
            assert!(!text.contains("canary"), "{text}");
        }
        self.store = decisions.after;
        Ok((self.stored(), outcome[0].operation.is_some()))
    }

    fn stored(&self) -> Value {
        let document = &self.store.documents[&(name(), id("d"))];
        document
            .value()
            .expect("canonical")
            .to_value()
            .expect("JSON")
    }

    fn revealed(&self) -> Value {
        let document = &self.store.documents[&(name(), id("d"))];
        let value = self.rules.revealed(&name(), document).expect("revealed");
        value.to_value().expect("JSON")
    }
}

fn put_of(value: &Value) -> Action {
    Action::Put(config(value.clone()))
}

#[test]
fn a_secret_is_sealed_and_stays_the_same_until_it_changes() {
    for ahead in [true, false] {
        let mut world = World::new(keys(&["a"]));
        let plain = json!({
            "password": CANARY, "login": {"user": CANARY}, "port": 1,
            "servers": [{"token": CANARY, "n": 1}, {"token": "canary-2"}],
        });
        let create = Action::Create(config(plain.clone()));
        let (first, _) = world.commit(create, ahead).expect("created");
        assert_eq!(sealed_values(&first).len(), 4, "{first}");
        assert_eq!(world.revealed(), plain);

        // What a reader got comes back with another member changed.
        let mut edited = first.clone();
        edited["port"] = json!(2);
        let (second, _) = world.commit(put_of(&edited), ahead).expect("written");
        assert_eq!(second, edited, "the sealed texts stay");

        let mut in_plain = plain.clone();
        in_plain["port"] = json!(2);
        let (same, changed) = world.commit(put_of(&in_plain), ahead).expect("written");
        assert!(!changed, "the same values in plain text change nothing");
        assert_eq!(same, second);

        let patch = Action::Patch(config(json!({"password": "new-canary"})));
        let (third, _) = world.commit(patch, ahead).expect("patched");
        assert_ne!(third["password"], second["password"]);
        assert_eq!(third["login"], second["login"]);
        assert_eq!(world.revealed()["password"], "new-canary");
        let sealed = sealed_text(&third["password"]).expect("sealed");
        assert!(sealed.starts_with("v1.a.3."), "its revision: {sealed}");

        // The members of a secret object are merged in plain text.
        let patch = Action::Patch(config(json!({"login": {"user": null}, "port": null})));
        world.commit(patch, ahead).expect("patched");
        assert_eq!(world.revealed()["login"], json!({}));

        // An earlier text, as a rollback writes it, is sealed again for its new revision.
        let rollback = Action::Replace(config(second.clone()));
        let (rolled_back, _) = world.commit(rollback, ahead).expect("written");
        assert_eq!(world.revealed(), in_plain);
        assert_ne!(rolled_back["password"], second["password"]);
        assert_eq!(
            rolled_back["servers"], second["servers"],
            "it had not changed"
        );
    }
}

#[test]
fn an_element_of_an_array_keeps_its_secret_when_it_moves() {
    for ahead in [true, false] {
        let mut world = World::new(keys(&["a"]));
        let plain = json!({"servers": [{"token": "one"}, {"token": "two"}], "password": "three"});
        let create = Action::Create(config(plain));
        let (first, _) = world.commit(create, ahead).expect("created");
        let (one, two) = (&first["servers"][0], &first["servers"][1]);
        let moved = json!({"servers": [{"token": "zero"}, two, one], "password": "three"});
        world.commit(put_of(&moved), ahead).expect("written");
        let servers = json!([{"token": "zero"}, {"token": "two"}, {"token": "one"}]);
        assert_eq!(world.revealed()["servers"], servers);

        // Not to a place of another kind: that would use a secret for what it is not for.
        let stolen = json!({"servers": [{"token": first["password"]}]});
        let error = world.commit(put_of(&stolen), ahead).expect_err("refused");
        assert_eq!(error.kind(), ProblemKind::Schema);
        assert_eq!(error.pointer().as_deref(), Some("/servers/0/token"));
    }
}

/// The keys of an object may be digits: they are names, as others are.
#[test]
fn a_secret_does_not_move_to_another_key_of_an_object() {
    for ahead in [true, false] {
        let mut world = World::new(keys(&["a"]));
        let create = Action::Create(config(json!({"ports": {"80": "test", "443": CANARY}})));
        let (first, _) = world.commit(create, ahead).expect("created");
        for key in ["80", "9999"] {
            let stolen = json!({"ports": {key: first["ports"]["443"]}});
            let error = world.commit(put_of(&stolen), ahead).expect_err("refused");
            assert_eq!(error.pointer(), Some(format!("/ports/{key}")));
        }
    }
}

#[test]
fn a_sealed_value_that_does_not_open_is_refused_with_its_place() {
    let mut world = World::new(keys(&["a"]));
    let create = Action::Create(config(json!({"password": CANARY})));
    let (first, _) = world.commit(create, true).expect("created");
    let text = sealed_text(&first["password"]).expect("sealed").to_owned();
    let mut other = World::new(keys(&["b"]));
    for wrong in [
        text.replace("v1.a.1.", "v1.a.2."),
        text.replace("v1.a.", "v1.unknown."),
        format!("{text}AAAA"),
        "v1.".to_owned(),
    ] {
        for ahead in [true, false] {
            let value = json!({"password": {"$secret": wrong}});
            let error = world.commit(put_of(&value), ahead).expect_err("refused");
            assert_eq!(error.kind(), ProblemKind::Schema, "{error}");
            assert_eq!(error.pointer().as_deref(), Some("/password"));
        }
    }
    for almost in [json!({"$secret": 7}), json!({"$secret": "v1.x", "a": 1})] {
        let error = world.commit(put_of(&json!({"login": almost})), true);
        assert_eq!(error.expect_err("refused").kind(), ProblemKind::Schema);
    }
    // A store with other keys.
    let elsewhere = Action::Create(config(first.clone()));
    let error = other.commit(elsewhere, true).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("the key a, which this process does not have")
    );
    assert_eq!(world.stored(), first, "nothing was written");
}

#[test]
fn a_refusal_shows_nothing_of_a_secret() {
    let mut world = World::new(keys(&["a"]));
    let long = format!("{CANARY}{}", "x".repeat(30_000));
    for wrong in [
        json!({"password": 7}),
        json!({"password": "x"}),
        json!({"login": {CANARY: 1}}),
        json!({"login": {"user": {CANARY: 1}}}),
        json!({"login": CANARY}),
        json!({"servers": [{"token": [CANARY]}], "port": CANARY.len()}),
        json!({"password": long}),
    ] {
        for ahead in [true, false] {
            let error = world
                .commit(Action::Create(config(wrong.clone())), ahead)
                .expect_err("refused");
            let shown = format!("{error} {error:?} {:?}", error.violations());
            assert!(!shown.contains(CANARY), "{shown}");
        }
    }
    let error = world
        .commit(Action::Create(config(json!({"password": "x"}))), true)
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the secret does not fit its schema (minLength)"
    );
    assert_eq!(error.pointer().as_deref(), Some("/password"));
}

#[test]
fn without_a_key_a_secret_is_refused_and_everything_else_is_written() {
    let mut world = World::new(Sealing::default());
    world
        .commit(Action::Create(config(json!({"port": 1}))), true)
        .expect("no secret in it");
    for ahead in [true, false] {
        let error = world
            .commit(put_of(&json!({"password": CANARY})), ahead)
            .expect_err("refused");
        assert_eq!(error.kind(), ProblemKind::NoSecretKey);
        assert!(
            error
                .to_string()
                .contains("AURA_CONFIGURATION_SECRET_KEYS_FILE")
        );
    }
}

#[test]
fn a_secret_whose_key_is_gone_can_be_replaced_and_not_kept() {
    let mut world = World::new(keys(&["a"]));
    world
        .commit(
            Action::Create(config(json!({"password": CANARY, "port": 1}))),
            true,
        )
        .expect("created");
    world.rules = secret_rules(keys(&["b"]));
    for ahead in [true, false] {
        let patch = Action::Patch(config(json!({"port": 2})));
        let error = world.commit(patch, ahead).expect_err("refused");
        assert_eq!(error.kind(), ProblemKind::NoSecretKey);
        assert!(error.to_string().contains("/password"), "{error}");
    }
    let patch = Action::Patch(config(json!({"port": 2, "password": "again"})));
    world.commit(patch, true).expect("written");
    assert_eq!(world.revealed(), json!({"port": 2, "password": "again"}));
}

#[test]
fn secrets_are_wrapped_by_a_new_key_once_and_keep_their_values() {
    let mut world = World::new(keys(&["a"]));
    let plain = json!({"password": CANARY, "servers": [{"token": "t"}], "port": 1});
    let create = Action::Create(config(plain.clone()));
    let (first, _) = world.commit(create, true).expect("created");
    world.rules = secret_rules(keys(&["b", "a"]));
    let (second, changed) = world.commit(Action::Rewrap, false).expect("wrapped");
    assert!(changed);
    assert_ne!(second, first);
    let (_, changed) = world.commit(Action::Rewrap, false).expect("wrapped");
    assert!(!changed, "nothing is left to do");
    world.rules = secret_rules(keys(&["b"]));
    assert_eq!(world.revealed(), plain);
    // What a reader read before the rotation still opens while the old key is there.
    world.rules = secret_rules(keys(&["b", "a"]));
    let (third, changed) = world.commit(put_of(&first), true).expect("written");
    assert!(!changed);
    assert_eq!(third, second);
}

#[test]
fn a_reference_to_a_secret_store_is_checked_for_its_form_only() {
    let mut world = World::new(Sealing::default());
    let good = json!({"vault": {"$secretRef": {"store": "vault", "key": "db", "member": "p"}}});
    let (stored, _) = world
        .commit(Action::Create(config(good.clone())), true)
        .expect("created");
    assert_eq!(stored, good);
    for wrong in [json!("plain"), json!({"$secretRef": {"store": "vault"}})] {
        let error = world.commit(put_of(&json!({"vault": wrong})), true);
        let error = error.expect_err("refused");
        assert_eq!(error.pointer().as_deref(), Some("/vault"));
        assert_eq!(error.kind(), ProblemKind::Schema);
    }
}

#[test]
fn the_forms_of_secrets_are_refused_where_the_schema_has_no_place_for_them() {
    let form = json!({"$secretRef": {"store": "kubernetes", "key": "db-admin"}});
    let without_schema = Rules {
        schemas: Schemas::default(),
        ..secret_rules(keys(&["a"]))
    };
    let mut open = World::new(keys(&["a"]));
    open.rules = without_schema;
    for mut world in [World::new(keys(&["a"])), open] {
        world
            .commit(Action::Create(config(json!({"port": 1}))), true)
            .expect("created");
        for wrong in [
            form.clone(),
            json!({"$secret": "v1.x"}),
            json!({"$secret": 1}),
        ] {
            for ahead in [true, false] {
                for write in [put_of, |value: &Value| Action::Patch(config(value.clone()))] {
                    let value = json!({"banner": [wrong]});
                    let error = world.commit(write(&value), ahead).expect_err("refused");
                    assert_eq!(error.kind(), ProblemKind::Schema);
                    assert_eq!(error.pointer().as_deref(), Some("/banner/0"));
                }
            }
        }
    }
    // A replica would resolve it after it has opened the secret.
    let mut world = World::new(keys(&["a"]));
    let within = json!({"login": {"user": "u"}, "servers": [{"token": form}]});
    let error = world
        .commit(Action::Create(config(within)), true)
        .expect_err("not a text");
    assert_eq!(error.pointer().as_deref(), Some("/servers/0/token"));
    let schema = json!({"properties": {"any": {"x-secret": true}}});
    let schema = Schema::new(&name(), schema.to_string().into(), None).expect("a schema");
    let schemas = [(name(), Arc::new(schema))].into();
    world.rules.schemas.replace(schemas);
    let within = json!({"any": {CANARY: form}});
    let error = world
        .commit(Action::Create(config(within)), true)
        .expect_err("refused");
    assert_eq!(error.pointer().as_deref(), Some("/any"));
    assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
}

#[test]
fn a_secret_does_not_become_plain_text_when_its_schema_loses_the_keyword() {
    let mut world = World::new(keys(&["a"]));
    let create = Action::Create(config(
        json!({"password": CANARY, "login": {"user": CANARY}}),
    ));
    world.commit(create, true).expect("created");
    let schema = json!({"properties": {
        "password": {"type": "string"}, "login": {"x-secret": true},
    }});
    let schema = Schema::new(&name(), schema.to_string().into(), None).expect("a schema");
    let schemas = [(name(), Arc::new(schema))].into();
    world.rules.schemas.replace(schemas);
    let patch = Action::Patch(config(json!({"port": 1})));
    let error = world.commit(patch, true).expect_err("refused");
    assert_eq!(error.pointer().as_deref(), Some("/password"));
    assert_eq!(error.kind(), ProblemKind::Schema);
    let given = Action::Patch(config(json!({"port": 1, "password": "open now"})));
    world.commit(given, true).expect("written");
    assert_eq!(world.stored()["password"], "open now");
}

#[test]
fn a_schema_cannot_make_a_whole_document_or_its_id_secret() {
    for schema in [
        json!({"x-secret": true}),
        json!({"properties": {"id": {"x-secret": true}}}),
        json!({"patternProperties": {"^i": {"x-secret": true}}}),
    ] {
        let schema = Schema::new(&name(), schema.to_string().into(), None);
        assert!(schema.is_err());
    }
    // No member of this pattern is the id.
    let schema = json!({"patternProperties": {"^p": {"x-secret": true}}});
    Schema::new(&name(), schema.to_string().into(), None).expect("a schema");
}

#[test]
fn a_schema_with_a_secret_that_would_not_be_sealed_or_a_reference_that_would_not_be_checked_is_refused()
 {
    for (schema, place) in [
        (
            json!({"not": {"properties": {"p": {"x-secret": true}}}}),
            "/not/properties/p/x-secret",
        ),
        (
            json!({"propertyNames": {"x-ref": "B"}}),
            "/propertyNames/x-ref",
        ),
        (
            json!({"properties": {"p": {"x-secret": true, "x-ref": "B"}}}),
            "x-secret and x-ref",
        ),
        (
            json!({"properties": {"p": {"x-secret-ref": true, "x-ref": "B"}}}),
            "x-secret-ref and x-ref",
        ),
        (
            json!({"properties": {"p": {"x-secret": true, "x-secret-ref": true}}}),
            "x-secret and x-secret-ref",
        ),
    ] {
        let refused = Schema::new(&name(), schema.to_string().into(), None).expect_err("refused");
        assert!(refused.to_string().contains(place), "{refused:#}");
    }
}

#[test]
fn a_stored_document_fits_the_schema_of_its_plain_values() {
    let mut world = World::new(keys(&["a"]));
    let create = Action::Create(config(json!({"password": CANARY, "port": 1})));
    let (mut stored, _) = world.commit(create, true).expect("created");
    let schema = world.rules.schemas.get(&name()).expect("a schema");
    assert!(schema.fits_stored(&stored));
    stored["port"] = json!("x");
    assert!(!schema.fits_stored(&stored));
}

#[test]
fn a_sealed_value_does_not_fit_a_schema_that_says_no_secret_there_and_the_refusal_says_so() {
    let mut world = World::new(keys(&["a"]));
    let create = Action::Create(config(json!({"password": CANARY, "port": 1})));
    let (stored, _) = world.commit(create, true).expect("created");
    let open = json!({"properties": {"password": {"type": "string"}}}).to_string();
    let open = Schema::new(&name(), open.into(), None).expect("a schema");
    assert!(!open.fits_stored(&stored));
    world.rules.schemas = Schemas::new([(name(), Arc::new(open))].into());
    for ahead in [true, false] {
        let patch = Action::Patch(config(json!({"port": 2})));
        let error = world.commit(patch, ahead).expect_err("refused");
        assert_eq!(error.pointer().as_deref(), Some("/password"));
        assert!(
            error.to_string().contains("does not say x-secret"),
            "{error}"
        );
    }
}
