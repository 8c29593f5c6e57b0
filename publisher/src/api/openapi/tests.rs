use std::collections::BTreeSet;

use super::*;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// What the source registers, as `get /path`.
fn registered(source: &str) -> BTreeSet<String> {
    let resources = source
        .split("web::resource(")
        .skip(1)
        .filter_map(|rest| rest.strip_prefix('"')?.split_once('"'));
    let methods = |(path, rest): (&str, &str)| {
        let has = |method: &&&str| rest.contains(&format!(".{method}("));
        METHODS
            .iter()
            .filter(has)
            .map(|method| format!("{method} {path}"))
            .collect::<Vec<_>>()
    };
    resources.flat_map(methods).collect()
}

#[test]
fn what_is_routed_is_described_and_the_other_way_round() {
    let whole = whole();
    let paths = whole["paths"].as_object().expect("paths");
    let described = paths.iter().flat_map(|(path, methods)| {
        methods
            .as_object()
            .expect("methods")
            .keys()
            .map(move |method| format!("{method} {path}"))
    });
    assert_eq!(
        described.collect::<BTreeSet<_>>(),
        registered(include_str!("../../api.rs"))
    );
}

#[test]
fn every_kind_of_problem_is_described() {
    let whole = whole().to_string();
    let sources = [
        include_str!("../error.rs"),
        include_str!("../../write/change_set.rs"),
        include_str!("../../fleet/restore.rs"),
    ];
    let everywhere = ["no-such-route", "method-not-allowed"];
    for source in sources.map(|source| source.split("#[cfg(test)]").next().unwrap_or_default()) {
        let kinds = source
            .split("Problem::new(")
            .chain(source.split("unavailable("))
            .skip(1);
        let kinds = kinds.filter_map(|rest| {
            rest.lines()
                .next()?
                .split('"')
                .nth(1)
                .filter(|kind| !kind.contains(' '))
        });
        for kind in kinds.filter(|kind| !everywhere.contains(kind)) {
            assert!(
                whole.contains(&format!("urn:confcast:problem:{kind}\"")),
                "{kind} is not described"
            );
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let whole = whole();
    let text = whole.to_string();
    for reference in text
        .split(r##""$ref":"#"##)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(whole.pointer(reference).is_some(), "{reference}");
    }
}
