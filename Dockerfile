# Two stages: build with the toolchain, run with nothing but the binary and the certificates it needs to reach a store.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY benches benches
RUN cargo build --locked --release --bin wal-indexer \
    && strip target/release/wal-indexer

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home wal-indexer
COPY --from=build /src/target/release/wal-indexer /usr/local/bin/wal-indexer
USER 10001:10001
ENV WAL_INDEXER_LISTEN=0.0.0.0:7070 \
    WAL_INDEXER_LOG_FORMAT=json
EXPOSE 7070
ENTRYPOINT ["/usr/local/bin/wal-indexer"]
CMD ["serve"]
