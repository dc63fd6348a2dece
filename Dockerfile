# One image, one binary, either role:
#   docker build -t quoring .
#   docker run quoring --help
# compose.yaml runs three coordinators and three workers of it.

FROM debian:bookworm-slim AS build
ARG RUST_VERSION=1.95.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl g++ gcc libc6-dev libclang-dev make \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs \
    | sh -s -- -y --no-modify-path --profile minimal --default-toolchain "$RUST_VERSION"
ENV PATH=/root/.cargo/bin:$PATH
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
