# `make` alone lists the targets. No target has more than three lines: longer work is a program or a script.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run run-dapr image prometheus picture test chaos check latency bench scale fuzz style format lint commits docs reference dependencies advisories

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Tools and servers that are fetched or built once, and shared by all clones.
PARTS := $(or $(CONFCAST_PARTS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/confcast/parts)
SERVICES := --package publisher --package subscriber

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The dev profile builds in less than half the time and is fast enough to try. For measurements use --release.
run: ## Try it: a publisher and two subscribers in this terminal, no server needed
	cargo build --locked $(SERVICES) --package cli
	exec $(TARGET)/debug/confcast up

# The Dapr CLI runs the release build, because dapr-config/dapr.yaml names it. Without the CLI the dev build is enough.
DAPR_PROFILE := $(if $(shell type -P dapr),release,dev)
run-dapr: ## The same with MongoDB, Redis and Dapr sidecars; missing servers are provided
	cargo build --locked --profile $(DAPR_PROFILE) $(SERVICES) --package cli --package run-dapr
	servers=$$(e2e/dependencies/provide.sh mongod redis-server daprd) && set -a && eval "$$servers" && \
	exec $(TARGET)/$(DAPR_PROFILE:dev=debug)/run-dapr

# docs/kubernetes.md says when to use it, and when the Dockerfile.
image: ## Container images of the programs, without a container engine: target/image/*.tar, and a table of sizes
	cargo build --release --locked $(SERVICES) --package component --package cli
	tools/image/build.sh $(TARGET)/release $(TARGET)/image

prometheus: ## Prometheus with the alerts, beside `make run`: http://127.0.0.1:9090
	part=$$(e2e/dependencies/provide.sh prometheus) && eval "$$part" && exec "$$PROMETHEUS" --web.listen-address=127.0.0.1:9090 \
	  --config.file=deploy/prometheus/prometheus.yaml --storage.tsdb.path=$(TARGET)/prometheus

picture: ## docs/images/dashboard.svg from what `make prometheus` has seen in the last minutes: MINUTES=12
	python3 tools/dashboard/picture.py http://127.0.0.1:9090 $(or $(MINUTES),12) >$(TARGET)/dashboard.svg
	mv $(TARGET)/dashboard.svg docs/images/dashboard.svg

# The tests need no network. ALONE is a command that runs them without one: .ci/loopback.
test: check ## The checks, then every test; MongoDB, Redis and Dapr are provided, no test is skipped
	cargo build --workspace --all-targets --locked
	e2e/dependencies/provide.sh
	$(ALONE) cargo test --workspace --locked -- --include-ignored

# Also RATE (writes per second) and VIA (dapr, pubsub, streams, local or feed): make passes variables on to the program.
chaos: ## A fault campaign: processes are killed, frozen and cut off under load, promises are checked: FAULTS=100 [SEED=s]
	cargo build --locked $(SERVICES) --package component --package cli --package e2e
	e2e/dependencies/provide.sh mongod redis-server daprd >/dev/null
	exec $(TARGET)/debug/chaos

latency: ## Time until a change is visible in both replicas: median and p99, release build, real servers
	cargo build --release --locked $(SERVICES) --package bench
	$(TARGET)/release/latency

# About 15 minutes, on a machine without other load. Also ROUNDS and SHARE, see bench/src/main.rs.
bench: ## Speed next to floors and peers of the same run: ratios, target/bench/ [ONLY=1,2]
	cargo build --release --locked $(SERVICES) --package component --package cli --package bench
	parts=$$(e2e/dependencies/provide.sh mongod redis-server daprd etcd etcd-module wrk peer-modules consul consul-template) && eval "$$parts" && \
	  ETCD_MODULE="$$ETCD_MODULE" CONSUL="$$CONSUL" CONSUL_TEMPLATE="$$CONSUL_TEMPLATE" exec $(TARGET)/release/bench

scale: ## Time and load for 10³ to 10⁶ replicas, computed from the costs that `make bench` measured
	cargo build --locked --package bench --bin scale
	exec $(TARGET)/debug/scale

# Guided by coverage, on stable; what fails is written to fuzz/tests/__fuzz__/TARGET/crashes, and `make test` repeats it.
fuzz: ## Every decoder with bytes that a peer may choose: MINUTES=20, or INPUTS=10000000 [ONLY=image,feed]
	cargo install --quiet --debug --locked --root $(PARTS)/tools cargo-bolero@0.13.5
	PATH=$(PARTS)/tools/bin:$$PATH fuzz/run.sh

check: format lint commits docs dependencies ## Format, lints, commit messages, documentation, dependencies and their licences

format:
	cargo fmt --all --check

# Without its features the crate `replica` must bring neither a web framework nor a broker into a service.
lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package replica --locked -- -D warnings && cargo clippy --package replica --features actix --locked -- -D warnings
	tree=$$(cargo tree --package replica --edges normal --prefix none --locked) && ! grep -E '^(actix|broker|redis|cloudevents)' <<<"$$tree"

commits:
	python3 tools/style/commits.py

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# The test of the documents writes the pages instead of comparing them. `make test` compares them.
reference: ## Write docs/reference/settings.md and cli.md, the names in the Helm chart, and the Grafana dashboard
	cargo build --locked --package publisher --package subscriber --package cli
	UPDATE_DOCS=1 cargo test --locked --package e2e --test docs

# Counts only; it never fails. [ARGS="--json --since COMMIT"]
style: ## How the code and the documents read, in numbers
	@python3 tools/style/style.py $(ARGS)

# The tools are built once, without optimisation, which takes a minute. no-license-field: a crate that names a licence
# file instead of a licence is judged by that file, so the warning adds nothing.
dependencies:
	cargo install --quiet --debug --locked --root $(PARTS)/tools cargo-deny@0.20.2 cargo-machete@0.9.2
	$(PARTS)/tools/bin/cargo-deny --locked check --deny unmatched-skip --allow no-license-field bans licenses sources
	$(PARTS)/tools/bin/cargo-machete --with-metadata

# Not part of `check`: it asks GitHub for the advisory database, and its result can change without a commit.
advisories: dependencies ## Known vulnerabilities of the dependencies (needs GitHub)
	$(PARTS)/tools/bin/cargo-deny --locked check advisories
