# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=""
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X novu-slack-redirect/upstream.version=$VERSION" -o /out/novu-slack-redirect . \
 && mkdir /out/data

# The program and the certificates it trusts: no shell, no package, not root, and nothing to write to but /data, and that
# only without REDIS_URL.
FROM scratch
# A release adds the labels that a Dockerfile cannot know: version, revision, created, source and url.
LABEL org.opencontainers.image.title="novu-slack-redirect" \
      org.opencontainers.image.description="The Redirect URL of a Slack app: saves incoming webhooks on Novu subscribers" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/novu-slack-redirect /novu-slack-redirect
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV DATA_FILE=/data/novu-slack-redirect.db
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=4s CMD ["/novu-slack-redirect", "health"]
ENTRYPOINT ["/novu-slack-redirect"]
