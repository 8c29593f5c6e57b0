//! The document is complete: every problem kind of the publisher is named by an operation, every
//! route of the table is described, and every reference has a target.

use std::collections::BTreeSet;

use contract::access::routes::{RouteAccess, Service};
use service::http::openapi::{missing_references, problem_kinds};

use super::*;

/// Kinds that only a subscriber sends.
const OF_SUBSCRIBER: &[ProblemKind] = &[
    ProblemKind::Unversioned,
    ProblemKind::Loading,
    ProblemKind::Stale,
];
/// Kinds that belong to no operation: the description of the document names them.
const OF_NO_OPERATION: &[ProblemKind] = &[
    ProblemKind::NoSuchRoute,
    ProblemKind::MethodNotAllowed,
    ProblemKind::HeadLate,
    ProblemKind::HeadTooLarge,
];

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
fn the_routes_are_those_of_the_contract() {
    let served: BTreeSet<_> = table().iter().map(|route| route.access().line()).collect();
    let listed = contract::access::routes::ALL.iter();
    let listed = listed.filter(|route| route.services.contains(&Service::Publisher));
    assert_eq!(served, listed.map(RouteAccess::line).collect());
}

#[test]
fn every_problem_kind_of_the_publisher_is_named_by_an_operation_and_no_other_kind_is() {
    let named = problem_kinds(&whole());
    for kind in ProblemKind::ALL {
        let sent = !OF_SUBSCRIBER.contains(kind) && !OF_NO_OPERATION.contains(kind);
        assert_eq!(named.contains(kind), sent, "{kind}");
    }
}

#[test]
fn every_reference_has_a_target() {
    assert_eq!(missing_references(&whole()), BTreeSet::new());
}
