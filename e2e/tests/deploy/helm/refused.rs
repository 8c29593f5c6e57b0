//! Wrong values are refused before anything is sent, and the message names them.

use anyhow::ensure;

use crate::manifests::{CHART, HELM, run_tool};

#[test]
fn wrong_values_are_refused_by_name() -> anyhow::Result<()> {
    for (set, expected) in [
        // What the chart does not know.
        ("subscriber.replica=3", "replica"),
        ("networkPolicy.egres.enabled=false", "egres"),
        ("existing.store.secret=x", "secret"),
        // Settings that no program knows, or not this one.
        (
            "settings.AURA_CONFIGURATION_LISSTEN=x",
            "AURA_CONFIGURATION_LISSTEN",
        ),
        (
            "subscriber.settings.AURA_CONFIGURATION_AUDIT=on",
            "AURA_CONFIGURATION_AUDIT",
        ),
        // Values.
        ("events.transport=KAFKA", "transport"),
        ("publisher.replicas=0", "replicas"),
        ("publisher.replicas=two", "replicas"),
        (
            "terminationGracePeriodSeconds=5",
            "terminationGracePeriodSeconds",
        ),
        ("drainSeconds=301", "drainSeconds"),
        ("drainSeconds=5s", "drainSeconds"),
        (
            "drainSeconds=9",
            "less than drainSeconds + 22: set it to 31",
        ),
        (
            "subscriber.settings.AURA_CONFIGURATION_DRAIN_SECONDS=1",
            "set drainSeconds",
        ),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        ("image.tag=latest", "tag"),
        ("publisher.image.digest=sha256:1", "digest"),
        ("subscriber.lastKnownGood.size=big", "size"),
        ("existing.tokens=Confcast Tokens", "tokens"),
        ("collections={_own}", "collections"),
        ("monitoring.podMonitor.interval=60s", "interval"),
        ("monitoring.rules.runbookUrl=wiki", "runbookUrl"),
        (
            "monitoring.dashboard.labels.app\\.kubernetes\\.io/name=x",
            "labels",
        ),
        (
            "publisher.podLabels.app\\.kubernetes\\.io/name=x",
            "podLabels",
        ),
        // What only makes sense together.
        (
            "subscriber.autoscaling.enabled=true,subscriber.autoscaling.maxReplicas=1",
            "maxReplicas is less than minReplicas",
        ),
        (
            "dapr.subscriptions=declarative,collections={Own_A,own_a}",
            "two Subscriptions would be named confcast-own-a",
        ),
        (
            "subscriber.settings.RUST_LOG=info,subscriber.secretSettings.RUST_LOG.name=x,\
             subscriber.secretSettings.RUST_LOG.key=y",
            "both have RUST_LOG",
        ),
        (
            "component.pubsub.name=pubsub-config,component.pubsub.scopes={a}",
            "component.pubsub.name: there is a Component pubsub-config already",
        ),
        (
            "component.states[0].name=a,component.states[0].collection=Other,component.states[0].scopes={a}",
            "no publisher serves the collection Other",
        ),
        (
            "component.states[0].name=a,component.states[0].collection=AgentConfiguration",
            "scopes",
        ),
        ("component.type=Confcast.sock", "type"),
        // Settings that the chart owns, and those that would put a secret into a manifest.
        (
            "settings.AURA_CONFIGURATION_LISTEN=127.0.0.1:1",
            "settings.AURA_CONFIGURATION_LISTEN is set by the chart",
        ),
        (
            "publisher.settings.AURA_CONFIGURATION_COLLECTIONS=A",
            "set collections",
        ),
        (
            "publisher.settings.AURA_CONFIGURATION_STORE_URL=mongodb://u:hunter2@h",
            "set publisher.store and existing.store",
        ),
        (
            "subscriber.settings.APP_API_TOKEN=hunter2",
            "set existing.daprAppToken",
        ),
        (
            "settings.AURA_REDIS_URL=redis://:hunter2@h",
            "name a Secret in publisher.secretSettings",
        ),
        (
            "publisher.settings.AURA_CONFIGURATION_SECRET_KEYS=hunter2",
            "may hold a secret",
        ),
        (
            "subscriber.settings.AURA_CONFIGURATION_PROJECTION_URL=mongodb://u:hunter2@h",
            "may hold a secret",
        ),
    ] {
        let output = run_tool(HELM, &["template", "confcast", CHART, "--set", set])?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && message.contains(expected),
            "{set}: expected {expected:?} in {message:?}"
        );
        ensure!(
            !message.contains("hunter2"),
            "{set}: the message shows a secret"
        );
    }
    Ok(())
}
