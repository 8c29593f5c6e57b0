//! A role has exactly its rights, and a grant gives them within its scope only.

use proptest::prelude::*;

use super::{
    routes::{self, Access, Scope},
    *,
};

fn grant() -> impl Strategy<Value = Grant> {
    let collections = prop::collection::btree_set(
        prop::sample::select(vec!["A", "B", "C"]).prop_map(|name| name.parse().expect("a name")),
        0..3,
    );
    (
        prop::sample::select(Role::ALL),
        prop::option::of(collections),
        prop::option::of(prop::sample::select(vec!["", "team-a.", "team-b."])),
    )
        .prop_map(|(role, collections, prefix)| Grant {
            role,
            collections,
            id_prefix: prefix.map(str::to_owned),
        })
}

fn caller(grants: Vec<Grant>) -> Identity {
    Identity {
        name: "token:x".into(),
        grants: grants.into(),
    }
}

proptest! {
    #[test]
    fn a_right_for_a_document_comes_from_a_grant_that_has_the_role_the_collection_and_the_prefix(
        grants in prop::collection::vec(grant(), 0..4),
        right in prop::sample::select(Right::ALL),
        collection in prop::sample::select(vec!["A", "B", "D"]),
        id in prop::sample::select(vec!["team-a.x", "team-b.x", "team-a", "x"]),
    ) {
        let name: CollectionName = collection.parse().expect("a name");
        let document: DocumentId = id.parse().expect("an id");
        let expected = grants.iter().any(|grant| {
            let has_right = TABLE.iter().any(|(role, rights)| *role == grant.role && rights.contains(&right));
            let has_collection = grant.collections.as_ref().is_none_or(|names| names.iter().any(|each| each.as_str() == collection));
            has_right && has_collection && id.starts_with(grant.id_prefix.as_deref().unwrap_or(""))
        });
        let caller = caller(grants);
        prop_assert_eq!(caller.may(right, Target::Document(&name, &document)), expected);
        prop_assert_eq!(caller.require(right, Target::Document(&name, &document)).is_ok(), expected);
    }

    #[test]
    fn a_wider_target_needs_no_less_than_a_narrower_one(
        grants in prop::collection::vec(grant(), 0..4),
        right in prop::sample::select(Right::ALL),
    ) {
        let name: CollectionName = "A".parse().expect("a name");
        let document: DocumentId = "x".parse().expect("an id");
        let caller = caller(grants);
        let may = |target| caller.may(right, target);
        let chain = [
            may(Target::Service),
            may(Target::Collection(&name)),
            may(Target::Document(&name, &document)),
            may(Target::DocumentsOf(&name)),
            may(Target::Selection),
        ];
        prop_assert!(chain.is_sorted(), "{:?}", chain);
    }
}

#[test]
fn the_table_is_in_the_order_of_the_roles_and_each_right_has_a_role() {
    for (role, (listed, rights)) in Role::ALL.iter().zip(TABLE) {
        assert_eq!(*role, listed);
        assert_eq!(role.rights(), rights);
        assert_eq!(role.as_str().parse(), Ok(*role));
    }
    assert_eq!(Role::ALL.len(), TABLE.len());
    for right in Right::ALL {
        assert!(right.roles().next().is_some(), "{right}");
        assert_eq!(right.as_str().parse(), Ok(*right));
    }
}

#[test]
fn a_role_that_changes_documents_reads_them() {
    for (role, rights) in TABLE {
        let writes = rights.contains(&Right::Write) || rights.contains(&Right::WriteSet);
        assert!(!writes || rights.contains(&Right::Read), "{role}");
        assert!(
            !rights.contains(&Right::WriteSet) || rights.contains(&Right::Write),
            "{role}"
        );
    }
}

#[test]
fn without_a_grant_nothing_is_allowed_and_an_anonymous_caller_may_do_everything() {
    let name: CollectionName = "A".parse().expect("a name");
    let document: DocumentId = "x".parse().expect("an id");
    for right in Right::ALL {
        for scope in [
            Scope::Document,
            Scope::Collection,
            Scope::DocumentsOf,
            Scope::Selection,
            Scope::Service,
        ] {
            let target = scope.example(&name, &document);
            assert!(!caller(vec![]).may(*right, target));
            assert!(Identity::unrestricted().may(*right, target));
        }
    }
    assert!(Identity::unrestricted().is_anonymous());
    assert!(Identity::unrestricted().is_unrestricted());
    let every_role = Role::ALL.iter().copied().map(Grant::everywhere);
    assert!(!caller(every_role.collect()).is_unrestricted());
}

#[test]
fn a_refusal_names_right_target_and_roles() {
    let name: CollectionName = "A".parse().expect("a name");
    let missing = caller(vec![Grant::everywhere(Role::Reader)])
        .require(Right::Write, Target::Collection(&name))
        .expect_err("a reader does not write");
    assert_eq!(
        missing.to_string(),
        "The right write for all documents of A is missing; roles that have it: writer, publisher"
    );
}

#[test]
fn a_grant_is_read_as_it_is_written_and_an_unknown_member_is_refused() {
    let text = r#"{"role":"secret-reader","collections":["A"],"idPrefix":"t."}"#;
    let grant: Grant = serde_json::from_str(text).expect("a grant");
    assert_eq!(serde_json::to_string(&grant).ok().as_deref(), Some(text));
    assert_eq!(grant.to_string(), "secret-reader of A, ids t.*");
    assert!(serde_json::from_str::<Grant>(r#"{"role":"reader","collection":"A"}"#).is_err());
}

#[test]
fn no_route_is_listed_twice_and_only_health_is_open_to_every_peer() {
    let mut seen = BTreeSet::new();
    for route in routes::ALL {
        assert!(seen.insert((route.method, route.path)), "{}", route.path);
        assert!(!route.services.is_empty());
        assert_eq!(
            route.access == Access::Anyone,
            matches!(route.path, "/healthz" | "/readyz"),
            "{}",
            route.path
        );
        assert_eq!(
            route.access == Access::Sidecar,
            route.path.starts_with("/dapr/"),
            "{}",
            route.path
        );
        // The scope comes from parameters that the path has.
        if let Access::Right(rights, scope) = route.access {
            assert!(!rights.is_empty());
            let needed: &[&str] = match scope {
                Scope::Document => &["{collection}", "{id}"],
                Scope::Collection | Scope::DocumentsOf => &["{collection}"],
                Scope::Selection | Scope::Service => &[],
            };
            assert!(
                needed.iter().all(|part| route.path.contains(part)),
                "{}",
                route.path
            );
        }
    }
}
