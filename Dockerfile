FROM --platform=$BUILDPLATFORM golang:1.26.8@sha256:0f063af2d465d8dcae54cce04278ada488b96f77b42449c8d071e47d016cc65a AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
# A release sets VERSION. Otherwise Go takes the version from .git: v1.2.3, or v1.2.4-0.TIME-COMMIT.
ARG VERSION=""
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X novu-slack-redirect/upstream.version=$VERSION" -o /out/novu-slack-redirect . \
 && mkdir /out/data

# The program and the certificates it trusts: no shell, no package, not root, and nothing to write to but /data, and that
# only without REDIS_URL. There is no VOLUME: Railway refuses it, and without -v it would be lost with the container anyway.
FROM scratch
# A release adds the labels that a Dockerfile cannot know: version, revision, created, source and url.
LABEL org.opencontainers.image.title="novu-slack-redirect" \
      org.opencontainers.image.description="The Redirect URL of a Slack app: saves incoming webhooks on Novu subscribers" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/novu-slack-redirect /novu-slack-redirect
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV DATA_FILE=/data/novu-slack-redirect.db PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=4s CMD ["/novu-slack-redirect", "health"]
ENTRYPOINT ["/novu-slack-redirect"]
