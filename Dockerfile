# Two stages: build with the toolchain, run with nothing but the program and what it is linked to. The work is deploy/rootfs.sh's.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY benches benches
COPY deploy/rootfs.sh deploy/rootfs.sh
RUN deploy/rootfs.sh /rootfs

FROM scratch
COPY --from=build /rootfs /
USER 10001:10001
ENV WAL_INDEXER_LISTEN=0.0.0.0:7070 \
    WAL_INDEXER_LOG_FORMAT=json
EXPOSE 7070 9090
ENTRYPOINT ["/usr/local/bin/wal-indexer"]
CMD ["serve"]
