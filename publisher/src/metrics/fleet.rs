//! The metrics that are read from the records of the replicas, and how far replicas are behind.
//!
//! Labels are states, faults, and the names of served collections. Nothing is counted here.

use contract::{
    CollectionName, Head, Revision,
    fleet::{CheckIn, IntakeFault},
    status::ReplicaState,
};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Label, Replicas, gauge};

/// Adds the replicas by what they report.
pub(super) fn register(registry: &mut Registry, replicas: &Replicas<'_>) {
    registry.register(
        "replicas",
        "Replicas by the worst state of their collections, or gone",
        by_state(replicas),
    );
    registry.register(
        "replicas_unlisted",
        "Live replicas that this publisher answers and does not list, because the list is full",
        gauge(replicas.unlisted as u64),
    );
    registry.register(
        "replicas_intake_fault",
        "Live replicas that report a fault in the delivery of events, by fault",
        by_intake_fault(replicas),
    );
    registry.register(
        "replicas_refused_values",
        "Values that do not fit the type of a service, over all live replicas",
        over_live(replicas, CheckIn::refused_values),
    );
    registry.register(
        "replicas_failing_handlers",
        "Failing handlers of services, over all live replicas",
        over_live(replicas, CheckIn::failing_handlers),
    );
    registry.register(
        "replicas_last_error",
        "Live replicas whose last load or check-in failed",
        over_live(replicas, |check_in| {
            u64::from(check_in.last_error.is_some())
        }),
    );
}

/// Adds the heads, and how many revisions the replica that is farthest behind lacks of each.
pub(super) fn register_lag(registry: &mut Registry, heads: &[Head], replicas: &Replicas<'_>) {
    type ByCollection = Family<[(&'static str, String); 1], Gauge>;
    let (revisions, lags) = (ByCollection::default(), ByCollection::default());
    let set = |family: &ByCollection, name: &CollectionName, number: Revision| {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let label = [("collection", name.to_string())];
        family.get_or_create(&label).set(number);
    };
    for head in heads {
        set(&revisions, &head.collection, head.revision);
        let live = replicas.live.iter();
        let reports = live.filter_map(|check_in| check_in.collections.get(&head.collection));
        // A replica in another epoch has nothing of this one.
        let reached = reports.map(|report| match report.epoch {
            Some(epoch) if epoch != head.epoch => 0,
            _same_or_unknown => report.revision,
        });
        let farthest = reached.min().unwrap_or(head.revision);
        set(
            &lags,
            &head.collection,
            head.revision.saturating_sub(farthest),
        );
    }
    registry.register(
        "head_revision",
        "The newest revision of the collection",
        revisions,
    );
    registry.register(
        "replicas_lag_revisions",
        "Revisions that the live replica which is farthest behind lacks, as of its last check-in",
        lags,
    );
}

fn by_state(replicas: &Replicas<'_>) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    // A state without a replica is 0 and not absent, so that an alert can compare it.
    let states = ReplicaState::ALL.map(ReplicaState::as_str);
    for state in states.into_iter().chain(["gone"]) {
        family.get_or_create(&[("state", state)]).set(0);
    }
    for check_in in &replicas.live {
        // A replica without collections misses nothing.
        let state = check_in.worst_state().unwrap_or(ReplicaState::Current);
        family.get_or_create(&[("state", state.as_str())]).inc();
    }
    let gone = i64::try_from(replicas.gone).unwrap_or(i64::MAX);
    family.get_or_create(&[("state", "gone")]).set(gone);
    family
}

/// The sum of a number that live replicas report.
fn over_live(replicas: &Replicas<'_>, number: impl Fn(&CheckIn) -> u64) -> Gauge {
    let numbers = replicas.live.iter().map(|check_in| number(check_in));
    let sum = numbers.fold(0, u64::saturating_add);
    let gauge = Gauge::default();
    gauge.set(i64::try_from(sum).unwrap_or(i64::MAX));
    gauge
}

fn by_intake_fault(replicas: &Replicas<'_>) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for fault in IntakeFault::ALL {
        family.get_or_create(&[("fault", fault.as_str())]).set(0);
    }
    for check_in in &replicas.live {
        if let Some(fault) = check_in.intake {
            family.get_or_create(&[("fault", fault.as_str())]).inc();
        }
    }
    family
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_services_cannot_use_is_summed_over_live_replicas() {
        let replica = |extra: &str| -> CheckIn {
            let refusal = r#"{"id":"x","revision":1,"pointer":"","error":"e"}"#;
            let text = format!(
                r#"{{"instance":"a","bootId":"b","intervalMs":1,
                "collections":{{"A":{{"revision":1,"known":1,"state":"partial","refusals":[{refusal}]{extra}}}}},
                "handlers":[{{"name":"A","collection":"A","state":"failing","revision":1}}],"lastError":"e"}}"#
            );
            serde_json::from_str(&text).expect("a check-in")
        };
        // The first one is of an older version, which has no exact numbers.
        let live = [replica(""), replica(r#","refusedValues":1002"#)];
        let replicas = Replicas {
            live: live.iter().collect(),
            gone: 1,
            unlisted: 3,
        };
        let mut registry = Registry::with_prefix("confcast");
        register(&mut registry, &replicas);
        let epoch = "00000001-1".parse().expect("an epoch");
        let heads = ["A", "B"].map(|name| Head {
            revision: 5,
            ..Head::empty(name.parse().expect("a name"), epoch)
        });
        register_lag(&mut registry, &heads, &replicas);
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        for line in [
            "confcast_head_revision{collection=\"B\"} 5\n",
            // The one that is gone is no further.
            "confcast_replicas_lag_revisions{collection=\"A\"} 4\n",
            "confcast_replicas_lag_revisions{collection=\"B\"} 0\n",
            "confcast_replicas_refused_values 1003\n",
            "confcast_replicas_failing_handlers 2\n",
            "confcast_replicas_last_error 2\n",
            "confcast_replicas{state=\"partial\"} 2\n",
            "confcast_replicas{state=\"gone\"} 1\n",
            "confcast_replicas_unlisted 3\n",
        ] {
            assert!(text.contains(line), "{line} {text}");
        }
    }
}
