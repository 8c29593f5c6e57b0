# `make` alone says what there is. No target has more than three lines: what needs more is a program or a script.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run run-dapr test chaos check latency bench format lint docs dependencies advisories

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Tools and servers that are fetched or built once, for all clones.
PARTS := $(or $(CONFCAST_PARTS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/confcast/parts)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The dev profile: the same programs, built in less than half the time, and fast enough to try. To measure, take --release.
run: ## Try it: a publisher and two subscribers in this terminal, no server needed
	cargo build --locked --package publisher --package subscriber --package cli
	exec $(TARGET)/debug/confcast up

# The Dapr CLI runs the release build, which dapr-config/dapr.yaml names; what starts without it needs not wait for that.
DAPR_PROFILE := $(if $(shell type -P dapr),release,dev)
run-dapr: ## The same with MongoDB, Redis and Dapr sidecars; what is not installed is provided
	cargo build --profile $(DAPR_PROFILE) --workspace --locked
	parts=$$(e2e/parts/provide.sh mongod redis-server daprd) && set -a && eval "$$parts" && \
	exec $(TARGET)/$(DAPR_PROFILE:dev=debug)/run-dapr

test: check ## The checks, then every test; MongoDB, Redis and Dapr are provided, nothing is skipped
	cargo build --workspace --locked
	e2e/parts/provide.sh
	cargo test --workspace --locked -- --include-ignored

# Also RATE (writes a second) and VIA (dapr, pubsub, streams or local): make hands what it is given to the program.
chaos: ## Real parts are killed, frozen and cut off under load while the promises are watched: FAULTS=100 [SEED=s]
	cargo build --workspace --locked
	e2e/parts/provide.sh mongod redis-server daprd >/dev/null
	exec $(TARGET)/debug/chaos

latency: ## How long until a change is visible in both replicas: median and p99, release build, real parts
	cargo build --release --workspace --locked
	$(TARGET)/release/latency

# About 15 minutes; nothing else should run meanwhile. Also ROUNDS and SHARE, see e2e/src/bin/bench/main.rs.
bench: ## How fast it is beside floors and peers of the same run: ratios, target/bench/ [ONLY=1,2]
	cargo build --release --workspace --locked --bin publisher --bin subscriber --bin bench
	e2e/parts/provide.sh mongod redis-server daprd etcd wrk peer-modules >/dev/null
	exec $(TARGET)/release/bench

check: format lint docs dependencies ## Format, lints, documentation, dependencies and their licences

format:
	cargo fmt --all --check

# Without its features a replica brings neither a web framework nor a broker into a service.
lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package replica --locked -- -D warnings && cargo clippy --package replica --features actix --locked -- -D warnings
	tree=$$(cargo tree --package replica --edges normal --prefix none --locked) && ! grep -E '^(actix|broker|redis|cloudevents)' <<<"$$tree"

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# Built once, without optimising, which takes a minute. A crate that names a licence file instead of a licence is judged
# by that file, so that warning says nothing.
dependencies:
	cargo install --quiet --debug --locked --root $(PARTS)/tools cargo-deny@0.20.2 cargo-machete@0.9.2
	$(PARTS)/tools/bin/cargo-deny --locked check --deny unmatched-skip --allow no-license-field bans licenses sources
	$(PARTS)/tools/bin/cargo-machete --with-metadata

# No part of `check`: it asks GitHub for the advisory database, and what passed yesterday may fail today.
advisories: dependencies ## Known vulnerabilities of the dependencies (needs GitHub)
	$(PARTS)/tools/bin/cargo-deny --locked check advisories
