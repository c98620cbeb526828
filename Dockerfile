# syntax=docker/dockerfile:1.9
# One image with the four programs; the command says which one runs.

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# Downloads and compiled dependencies stay in the builder's cache between builds.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --workspace --bins \
    && mkdir /out \
    && cp target/release/eventboard target/release/gateway target/release/auth-worker target/release/events-worker /out/

# glibc, CA certificates and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
# Asks the admin port of whichever service runs, which EVENTBOARD_ADMIN names.
HEALTHCHECK --interval=3s --timeout=4s --start-period=30s --retries=6 \
    CMD ["eventboard", "healthcheck"]
CMD ["eventboard", "--help"]
