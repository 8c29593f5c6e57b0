# syntax=docker/dockerfile:1
#
#   docker build --target publisher  --tag confcast-publisher  .
#   docker build --target subscriber --tag confcast-subscriber .
#   docker build --target confcast-component --tag confcast-component .
#   docker build --target confcast   --tag confcast            .
#
# `make image` makes the same images without a container engine. Add `--build-arg REVISION=$(git rev-parse HEAD)` for the label.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The caches stay between builds but are not part of a layer, so the same step copies the programs out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked --package publisher --package subscriber --package component --package cli \
    && mkdir -p /roots/data \
    && tools/image/root.sh base /roots/base \
    && tools/image/root.sh program /roots/base target/release/publisher /roots/publisher \
    && tools/image/root.sh program /roots/base target/release/subscriber /roots/subscriber \
    && tools/image/root.sh program /roots/base target/release/confcast-component /roots/confcast-component \
    && tools/image/root.sh program /roots/base target/release/confcast /roots/confcast

FROM scratch AS runtime
COPY --from=build /roots/base /
# The one folder that programs may write.
COPY --from=build --chown=65532:65532 --chmod=0750 /roots/data /var/lib/confcast
WORKDIR /confcast
# A number, because Kubernetes (runAsNonRoot) cannot tell whether a name is root.
USER 65532:65532
ARG REVISION=unknown
LABEL org.opencontainers.image.version=0.1.0
LABEL org.opencontainers.image.revision=$REVISION
LABEL org.opencontainers.image.licenses=Apache-2.0

FROM runtime AS service
# The default, loopback, cannot be reached from outside a container.
ENV AURA_CONFIGURATION_LISTEN=0.0.0.0:8080
EXPOSE 8080/tcp

FROM service AS publisher
COPY --from=build /roots/publisher /
ENV AURA_CONFIGURATION_STORE_URL=file:/var/lib/confcast
ENTRYPOINT ["/usr/local/bin/publisher"]
LABEL org.opencontainers.image.title=confcast-publisher
LABEL org.opencontainers.image.description="Takes writes of configuration documents, and serves their change feed"

FROM service AS subscriber
COPY --from=build /roots/subscriber /
ENTRYPOINT ["/usr/local/bin/subscriber"]
LABEL org.opencontainers.image.title=confcast-subscriber
LABEL org.opencontainers.image.description="Holds a replica of all configuration documents, and serves it"

FROM service AS confcast-component
COPY --from=build /roots/confcast-component /
ENTRYPOINT ["/usr/local/bin/confcast-component"]
LABEL org.opencontainers.image.title=confcast-component
LABEL org.opencontainers.image.description="A pluggable component of Dapr: pub/sub and state without a broker"

FROM runtime AS confcast
COPY --from=build /roots/confcast /
ENTRYPOINT ["/usr/local/bin/confcast"]
LABEL org.opencontainers.image.title=confcast
LABEL org.opencontainers.image.description="The command line of Confcast"
