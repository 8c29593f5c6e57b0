#!/usr/bin/env python3
"""The Grafana dashboard of Confcast: prints deploy/grafana/confcast.json.

`make reference` writes the file, and a test compares both. The test also parses every query by promtool and looks up its
metrics in docs/reference/metrics.md. This program asks nothing and nobody.
"""
import json
from dataclasses import dataclass

WIDTH, COLUMNS, HEIGHT = 24, 3, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    queries: tuple  # of (query, legend); HERE stands for the labels that the reader has chosen
    unit: str = "short"
    stacked: bool = False


HERE = 'namespace=~"$namespace"'


def rate(metric, by="", where=""):
    """Per second, over all processes."""
    by = f" by ({by})" if by else ""
    where = f"{where}, " if where else ""
    return f"sum{by} (rate({metric}{{{where}{HERE}}}[$__rate_interval]))"


def once(metric, by="", where=""):
    """A number of the store, which all of its publishers show."""
    by = f" by ({by})" if by else ""
    where = f"{where}, " if where else ""
    return f"max{by} ({metric}{{{where}{HERE}}})"


def quantiles(metric, where=""):
    """Median and 99th percentile of a histogram, over all processes."""
    return tuple((f"histogram_quantile({share}, {rate(metric + '_bucket', 'le', where)})", legend)
                 for share, legend in ((0.5, "median"), (0.99, "99th percentile")))


ROWS = {
    "How long did it take?": (
        Panel("Commit to applied", "From the start of the commit of a change until readers of a replica saw it, over all replicas.",
              quantiles("confcast_commit_to_applied_seconds"), unit="s"),
        Panel("Commits of the store", "Time of a commit in the store, of those that succeeded.",
              quantiles("confcast_store_call_seconds", 'operation="commit", result="ok"'), unit="s"),
        Panel("Probe document", "Attempts to write it, by result, and changes that replicas reported as applied.",
              ((rate("confcast_probe_writes_total", "result"), "{{result}}"),
               (rate("confcast_commit_to_applied_seconds_count"), "changes applied")), unit="ops"),
    ),
    "Replicas": (
        Panel("Replicas by state", "The worst state of each replica, as the publishers know it.",
              ((once("confcast_replicas", "state"), "{{state}}"),), stacked=True),
        Panel("Lag in revisions", "Revisions that a subscriber knows of and does not have yet; of the one that lacks most.",
              ((once("confcast_subscriber_lag_revisions", "collection"), "{{collection}}"),)),
        Panel("Confirmed", "Seconds since a publisher confirmed the content of the subscriber.",
              ((f"max by (instance) (confcast_subscriber_confirmed_age_seconds{{{HERE}}})", "{{instance}}"),), unit="s"),
        Panel("Refused values and failing handlers", "What services cannot use, over all live replicas.",
              ((once("confcast_replicas_refused_values"), "refused values"),
               (once("confcast_replicas_failing_handlers"), "failing handlers"),
               (once("confcast_replicas_last_error"), "replicas with an error"))),
        Panel("Intake faults", "Replicas that get no events, by fault.",
              ((once("confcast_replicas_intake_fault", "fault"), "{{fault}}"),), stacked=True),
        Panel("Loads and resets", "Snapshots that subscribers installed. A reset is a load because the content differed.",
              ((rate("confcast_subscriber_loads_total"), "loads"),
               (rate("confcast_subscriber_resets_total"), "resets"),
               (rate("confcast_replicas_diverged_total"), "diverged check-ins")), unit="ops"),
    ),
    "Writes and events": (
        Panel("Writes by status", "Answers to writes, by HTTP status.",
              ((rate("confcast_writes_total", "status"), "{{status}}"),), unit="ops", stacked=True),
        Panel("Events published", "Attempts to publish an event, by result.",
              ((rate("confcast_events_total", "result"), "{{result}}"),), unit="ops"),
        Panel("Age of pending events", "Since the commit of the oldest change whose event is not published.",
              ((once("confcast_events_pending_age_seconds"), "age"),), unit="s"),
        Panel("Pending events", "Changes whose events are not published, counted up to 10,000.",
              ((once("confcast_events_pending"), "pending"),)),
        Panel("Events at subscribers", "What became of the events that arrived.",
              ((rate("confcast_subscriber_events_total", "end"), "{{end}}"),), unit="ops", stacked=True),
        Panel("Changes by the feed", "Changes that the feed brought before an event did, and values fetched for their events.",
              ((rate("confcast_subscriber_feed_changes_total"), "changes"),
               (rate("confcast_subscriber_fetched_values_total"), "fetched values")), unit="ops"),
    ),
    "What is refused, damaged or left over": (
        Panel("Refused at a limit", "Streams, waits, snapshots and lists beyond the limits of the publishers.",
              ((rate("confcast_streams_refused_total"), "streams"),
               (rate("confcast_waits_refused_total"), "waits"),
               (rate("confcast_snapshots_refused_total"), "snapshots"),
               (rate("confcast_lists_refused_total"), "lists")), unit="ops"),
        Panel("Refused callers", "Requests without a valid credential, or without the right.",
              ((rate("confcast_refusals_total", "reason, right"), "publisher: {{reason}} {{right}}"),
               (rate("confcast_subscriber_refusals_total", "reason, right"), "subscriber: {{reason}} {{right}}")), unit="ops"),
        Panel("Events that are not believed", "Without a signature that counts, or of revisions that were never committed.",
              ((rate("confcast_subscriber_unproven_events_total", "cause"), "{{cause}}"),
               (rate("confcast_subscriber_events_total", where='end="unconfirmed"'), "unconfirmed"),
               (rate("confcast_claims_unproven_total"), "claims at publishers")), unit="ops"),
        Panel("Damaged rows", "Rows of the store that publishers know to be damaged, by what readers get.",
              ((once("confcast_damaged_rows", "outcome"), "{{outcome}}"),), stacked=True),
        Panel("Dead letters", "Events that no replica took.",
              ((once("confcast_dead_letters", "state"), "{{state}}"),), stacked=True),
        Panel("Stores that are ready", "1 for a publisher that can read and write its store, 0 for one whose /readyz answers 503.",
              ((f"min by (instance) (confcast_store_ready{{{HERE}}})", "{{instance}}"),)),
        Panel("Age of copies on disk", "Seconds since the copy of a subscriber had all that it held; about 30 at most while it can be written.",
              ((f"max by (instance) (confcast_subscriber_copy_age_seconds{{{HERE}}})", "{{instance}}"),), unit="s"),
        Panel("Alerts that fire", "Of deploy/prometheus/rules.yaml; docs/operations/alerts.md says what to do.",
              (('count by (alertname) (ALERTS{alertname=~"Confcast.*", alertstate="firing"})', "{{alertname}}"),),
              stacked=True),
    ),
}


def panel(number, it, x, y):
    """A panel in the form of Grafana."""
    custom = {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"}
    if it.stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": it.title,
        "description": it.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH // COLUMNS, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": it.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
                    for index, (query, legend) in enumerate(it.queries)],
    }


def panels():
    y = 0
    number = 0
    for title, row in ROWS.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        y += 1
        for index, it in enumerate(row):
            number += 1
            yield panel(number, it, index % COLUMNS * (WIDTH // COLUMNS), y + index // COLUMNS * HEIGHT)
        y += -(-len(row) // COLUMNS) * HEIGHT


def dashboard():
    return {
        "uid": "confcast",
        "title": "Confcast",
        "tags": ["confcast"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            # A Prometheus outside of Kubernetes has no such label; `.*` is true of it too.
            {"name": "namespace", "label": "Namespace", "type": "query", "datasource": DATASOURCE, "refresh": 2,
             "query": {"query": "label_values(confcast_claims_unproven_total, namespace)", "refId": "namespace"},
             "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
        ]},
        "panels": list(panels()),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
