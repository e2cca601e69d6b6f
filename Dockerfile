# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=""
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/novu-slack-redirect . \
 && mkdir /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/novu-slack-redirect /novu-slack-redirect
COPY --from=build --chown=nonroot:nonroot /out/data /data
ENV DATA_FILE=/data/novu-slack-redirect.db
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/novu-slack-redirect"]
