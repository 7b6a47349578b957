# One static binary in an empty image. Debian's glibc is linked in; nothing of the builder stays.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# With --target, so that build scripts and macros stay dynamic.
RUN host=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin backbone --target "$host" \
    && strip --strip-debug -o /backbone "target/$host/release/backbone" \
    && mkdir -p /rootfs/data

FROM scratch
COPY --from=build /backbone /backbone
COPY --from=build --chown=65532:65532 /rootfs/data /data
USER 65532:65532
ENV BACKBONE_DATA_DIR=/data
VOLUME /data
EXPOSE 5672 5000 3000 15672
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/backbone", "status"]
ENTRYPOINT ["/backbone"]
