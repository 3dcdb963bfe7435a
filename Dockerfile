# Both programs, static, in an image with nothing else.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag registry:5000/ha-sync:latest --push .
#
# Without a builder: `cargo xtask dist` makes the same image, and needs no container engine.

# Alpine's own target is musl: what cargo makes there is static, on each platform for itself.
FROM rust:1.95.0-alpine AS build
RUN apk add --no-cache gcc make musl-dev
WORKDIR /ha-sync
COPY . .
# The toolchain of the image, without the components that only the checks need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN cargo build --profile dist --locked --package ha-sync --package ha-sync-ui \
 && mkdir -p /image/mnt /image/tmp /image/run/lock /image/var/log/ha-sync \
 && chmod 1777 /image/tmp /image/run/lock \
 && cp target/dist/ha-sync target/dist/ha-sync-ui /image/

FROM scratch
COPY --from=build /image /
WORKDIR /
ENTRYPOINT ["/ha-sync"]
