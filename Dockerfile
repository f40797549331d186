FROM python:3.13-slim AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY streamcrypt streamcrypt
# Everything as wheels first: what cannot be had as one fails here, because no stage has a compiler.
RUN python -m pip wheel --wheel-dir /wheels '.[sidecar,msk,otel]'
# The environment has no pip of its own, and its bytecode is made now, because the root file system may be read-only.
RUN python -m venv --without-pip /opt/streamcrypt \
 && python -m pip --python /opt/streamcrypt/bin/python install \
      --no-compile --no-index --find-links /wheels 'streamcrypt[sidecar,msk,otel]' \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/streamcrypt/lib

FROM python:3.13-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="streamcrypt" \
      org.opencontainers.image.description="Envelope encryption for Kafka record values with data keys from AWS KMS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 streamcrypt \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin streamcrypt
COPY --from=builder /opt/streamcrypt /opt/streamcrypt
ENV PATH=/opt/streamcrypt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMCRYPT__HTTP__HOST=0.0.0.0
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# Straight to the process: a proxy from the environment is for the outside world.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('STREAMCRYPT__HTTP__PORT', '9464') + '/healthz', timeout=4).close()"]
ENTRYPOINT ["streamcrypt"]
CMD ["run", "/etc/streamcrypt/config.yaml"]
