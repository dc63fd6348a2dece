# One image, one binary, either role:
#   docker build -t quoring .
#   docker run quoring --help
# compose.yaml runs three coordinators and three workers of it.

ARG RUST_VERSION=1.95.0
FROM rust:${RUST_VERSION}-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin quoring

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /data --create-home quoring
COPY --from=build /src/target/release/quoring /usr/local/bin/quoring
USER quoring
VOLUME /data
WORKDIR /data
# A node hands its leaderships over when it is asked to stop, for which it has docker stop's 10 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["quoring"]
