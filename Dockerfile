# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=""
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/novu-slack-redirect . \
 && mkdir /out/data

# No shell, not root, and nothing to write to but /data, and that only without REDIS_URL.
FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION="" REVISION="" CREATED=""
LABEL org.opencontainers.image.title="novu-slack-redirect" \
      org.opencontainers.image.description="The Redirect URL of a Slack app: saves incoming webhooks on Novu subscribers" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /out/novu-slack-redirect /novu-slack-redirect
COPY --from=build --chown=nonroot:nonroot /out/data /data
ENV DATA_FILE=/data/novu-slack-redirect.db
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=4s CMD ["/novu-slack-redirect", "health"]
ENTRYPOINT ["/novu-slack-redirect"]
