# syntax=docker/dockerfile:1
#
#   docker build --target publisher  --tag confcast-publisher  .
#   docker build --target subscriber --tag confcast-subscriber .
#   docker build --target component  --tag confcast-component  .

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The caches stay between builds but are not part of a layer, so the same step copies the programs out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked --package publisher --package subscriber --package component \
    && install -D --target-directory=/out target/release/publisher target/release/subscriber target/release/confcast-component

FROM debian:12-slim AS runtime
# The slim image has no certificates; MongoDB over TLS needs them.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
WORKDIR /confcast
COPY schemas schemas
# The default, loopback, cannot be reached from outside a container.
ENV AURA_CONFIGURATION_LISTEN=0.0.0.0:8080
EXPOSE 8080
# A number, because Kubernetes (runAsNonRoot) cannot tell whether a name is root.
USER 65532:65532

FROM runtime AS publisher
COPY --from=build /out/publisher /usr/local/bin/
ENTRYPOINT ["publisher"]

FROM runtime AS component
COPY --from=build /out/confcast-component /usr/local/bin/
ENTRYPOINT ["confcast-component"]

FROM runtime AS subscriber
COPY --from=build /out/subscriber /usr/local/bin/
ENTRYPOINT ["subscriber"]
