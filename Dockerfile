# The image holds one static binary, the certificates of the public authorities, and the default configuration.
#
#   docker build -t gantry .
#   docker run -p 8000:8000 -p 127.0.0.1:8080:8080 -v ./dynamic:/etc/gantry/dynamic:ro gantry
#
# With a binary and root folder made outside (tests/container.sh):
#   podman build --target final --build-context builder=FOLDER .     # FOLDER/rootfs comes from packaging/rootfs.sh

FROM docker.io/library/rust:1-bookworm AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# glibc, linked statically. Names are resolved by Gantry itself, so nothing is loaded at run time.
# The target is named so that the flag does not reach build scripts and procedural macros.
RUN host=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --bin gantry --target "$host" \
    && sh packaging/rootfs.sh "target/$host/release/gantry" /rootfs

FROM scratch AS final
COPY --from=builder /rootfs/ /
USER 65532:65532
WORKDIR /etc/gantry
# web, and the admin entry point (metrics, ping) of the default configuration
EXPOSE 8000 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/gantry", "healthcheck"]
ENTRYPOINT ["/gantry"]
CMD ["run"]
