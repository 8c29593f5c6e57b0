//! The document is complete: every problem kind of the subscriber is named by an operation, every
//! reference has a target, and every route of the table is served.

use std::{collections::BTreeSet, time::Duration};

use actix_web::{
    App,
    http::StatusCode,
    test::{TestRequest, call_service, init_service},
};
use contract::access::routes::{RouteAccess, Service};
use replica::{Config, Events, Replica};
use service::{http::stream_slots::StreamSlots, runtime::drain::Drain};

use super::*;
use crate::{api::Api, settings::Options};

/// Kinds that only a publisher sends.
const OF_PUBLISHER: &[ProblemKind] = &[
    ProblemKind::BadBody,
    ProblemKind::BadSet,
    ProblemKind::NoSchema,
    ProblemKind::Exists,
    ProblemKind::NoRevision,
    ProblemKind::NoSnapshot,
    ProblemKind::NoToken,
    ProblemKind::NoSecretKey,
    ProblemKind::TokensFull,
    ProblemKind::NameTaken,
    ProblemKind::NoSet,
    ProblemKind::ChangedSince,
    ProblemKind::SnapshotExists,
    ProblemKind::SnapshotsFull,
    ProblemKind::NotKept,
    ProblemKind::NoDeadLetter,
    ProblemKind::NotReplayable,
    ProblemKind::DanglingReference,
    ProblemKind::NotDeclared,
    ProblemKind::SetTooLarge,
    ProblemKind::Schema,
    ProblemKind::Unreadable,
    ProblemKind::NotCommitted,
    ProblemKind::OutcomeUnknown,
    ProblemKind::StoreUnavailable,
    ProblemKind::NotDeclaredNow,
];
/// Kinds that belong to no operation: the description of the document names them.
const OF_NO_OPERATION: &[ProblemKind] = &[
    ProblemKind::NoSuchRoute,
    ProblemKind::MethodNotAllowed,
    ProblemKind::HeadLate,
    ProblemKind::HeadTooLarge,
];

#[actix_web::test]
async fn every_route_of_the_table_is_served() {
    let replica = Replica::new(Config {
        instance: "here".to_owned(),
        collections: ["A".parse().expect("a name")].into(),
        follow: replica::Follow::Named,
        publishers: Vec::new(),
        base_url: None,
        check_in: Duration::from_secs(10),
        events: Events::Posted,
        snapshot_dir: None,
        credentials: replica::Credentials::default(),
        sidecar_token: None,
        app_token: None,
        event_keys: None,
    });
    let options = <Options as clap::Parser>::parse_from(["subscriber"]);
    let settings = options.settings().expect("valid settings");
    let streams = StreamSlots::new(
        settings.limits.streams(&settings.limits.connections()),
        Default::default(),
    );
    let api = Api::new(
        replica.expect("a replica"),
        None,
        &settings,
        streams,
        Drain::default(),
        None,
    );
    let service = init_service(App::new().configure(|config| crate::api::configure(config, &api)));
    let service = service.await;
    for route in table() {
        let request = TestRequest::with_uri(route.path()).method(route.method().clone());
        let answer = call_service(&service, request.to_request()).await;
        assert_ne!(answer.status(), StatusCode::NOT_FOUND, "{}", route.path());
        assert_ne!(
            answer.status(),
            StatusCode::METHOD_NOT_ALLOWED,
            "{}",
            route.path()
        );
    }
}

#[test]
fn a_route_is_in_the_table_once_and_its_path_is_described() {
    let document = whole();
    let mut seen = BTreeSet::new();
    for route in table() {
        let method = route.method().as_str().to_ascii_lowercase();
        assert!(
            document["paths"][route.path()][&method].is_object(),
            "{}",
            route.path()
        );
        assert!(
            seen.insert((method, route.path())),
            "{} is there twice",
            route.path()
        );
    }
}

#[test]
fn every_problem_kind_of_the_subscriber_is_named_by_an_operation_and_no_other_kind_is() {
    let named = service::http::openapi::problem_kinds(&whole());
    for kind in ProblemKind::ALL {
        let sent = !OF_PUBLISHER.contains(kind) && !OF_NO_OPERATION.contains(kind);
        assert_eq!(named.contains(kind), sent, "{kind}");
    }
}

#[test]
fn every_reference_has_a_target() {
    assert_eq!(
        service::http::openapi::missing_references(&whole()),
        BTreeSet::<String>::new()
    );
}

#[test]
fn the_routes_are_those_of_the_contract() {
    let served: BTreeSet<_> = table().iter().map(|route| route.access().line()).collect();
    let listed = contract::access::routes::ALL.iter();
    let listed = listed.filter(|route| route.services.contains(&Service::Subscriber));
    assert_eq!(served, listed.map(RouteAccess::line).collect());
}
