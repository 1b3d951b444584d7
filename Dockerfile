# Images of slr-det, one target for each command line: yolo, lane, pointpillars, classify.
#
#   docker build --target yolo -t slr-det:yolo .
#   docker run --gpus all -v DATA:/data -v RUNS:/runs slr-det:yolo compress ...
#
# Without arguments a container runs the embedded default, on a CPU where there is no GPU. docs/docker.md has the rest.
# Python packages have the versions of constraints.txt, as for `make install`; all else is pinned by these arguments.

ARG PYTHON_VERSION=3.11.14
ARG DEBIAN_RELEASE=bookworm
# Any Debian or Ubuntu whose python3 is 3.11 or newer and has venv. CUDA comes with torch's wheels, the driver from
# the host.
ARG BASE_IMAGE=docker.io/library/python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE}
# The CUDA of spconv's build, which brings its own runtime and need not be that of torch.
ARG SPCONV_CUDA=cu126
# Who runs, unless --user says otherwise.
ARG USER_ID=1000

# uv, and what it reads. Final stages mount this one while they install, and keep nothing of it.
FROM ${BASE_IMAGE} AS tools
SHELL ["/bin/sh", "-eu", "-c"]
WORKDIR /build
COPY constraints.txt pyproject.toml ./
# Set only where packages come from somewhere else than usual; a bundle of certificates is the secret `ca`.
ARG PIP_INDEX_URL
ARG SSL_CERT_FILE
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check \
        ${SSL_CERT_FILE:+--cert "$SSL_CERT_FILE"} -c constraints.txt uv
# The extra names spconv's build for CPUs, which would put its files over those of the build for CUDA.
RUN echo "spconv ; sys_platform == 'never'" > without-cpu-spconv.txt

# The wheel of this package: the only stage with a compiler.
FROM tools AS wheel
# Debian takes a version away once it has a newer one, so that naming one would break the build some day.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY README.md LICENSE hatch_build.py ./
COPY slr_det slr_det
COPY adapters adapters
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    /opt/uv/bin/uv build --no-cache --wheel --python python3 --out-dir /dist

# What all images share: torch, a user that is not root, and places that may be written.
FROM ${BASE_IMAGE} AS base
SHELL ["/bin/sh", "-eu", "-c"]
ARG USER_ID
# Anybody may write where runs and caches go, so that --user can name any number.
RUN useradd --uid "${USER_ID}" --gid 0 --home-dir /var/lib/slr-det --no-create-home --shell /usr/sbin/nologin slr-det \
    && mkdir -p /var/lib/slr-det /data /runs \
    && chmod 1777 /var/lib/slr-det /data /runs
# USER and LOGNAME answer for a number that has no line in /etc/passwd.
ENV HOME=/var/lib/slr-det \
    USER=slr-det \
    LOGNAME=slr-det \
    PATH=/opt/slr-det/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SLR_DET_RUNS=/runs \
    SLR_DET_CACHE=/runs/.cache
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# Unset: torch for CUDA, as the package index has it. Else a torch backend that uv knows: cpu, cu126, ...
ARG UV_TORCH_BACKEND
# torch and torchvision in one command: installed apart they can come from different builds.
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/build,target=/build \
    --mount=type=cache,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    && /opt/uv/bin/uv venv --python python3 /opt/slr-det \
    && /opt/uv/bin/uv --directory /build pip install --python /opt/slr-det -c constraints.txt \
        -r pyproject.toml torchvision
COPY configs /usr/share/slr-det/configs
WORKDIR /runs
VOLUME ["/data", "/runs"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="slr-det" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.licenses="Apache-2.0"

# YOLO detectors. ultralytics is under the AGPL-3.0, and so is what is made of it and this package.
FROM base AS yolo
ARG USER_ID
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ARG UV_TORCH_BACKEND
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/build,target=/build \
    --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    && /opt/uv/bin/uv --directory /build pip install --python /opt/slr-det -c constraints.txt \
        -r pyproject.toml --extra yolo --extra export --extra shrink \
    && /opt/uv/bin/uv pip install --python /opt/slr-det --no-deps /dist/*.whl
LABEL org.opencontainers.image.description="Compress YOLO detectors by pruning with Surrogate Lagrangian Relaxation" \
      org.opencontainers.image.licenses="Apache-2.0 AND AGPL-3.0-only"
USER ${USER_ID}
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["slr-det", "doctor", "--need", "yolo"]
ENTRYPOINT ["python", "-m", "slr_det.yolo"]

# Lane detectors.
FROM base AS lane
ARG USER_ID
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ARG UV_TORCH_BACKEND
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/build,target=/build \
    --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    && /opt/uv/bin/uv --directory /build pip install --python /opt/slr-det -c constraints.txt \
        -r pyproject.toml --extra lane --extra export \
    && /opt/uv/bin/uv pip install --python /opt/slr-det --no-deps /dist/*.whl
LABEL org.opencontainers.image.description="Compress lane detectors by pruning with Surrogate Lagrangian Relaxation"
USER ${USER_ID}
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["slr-det", "doctor", "--need", "lane"]
ENTRYPOINT ["python", "-m", "slr_det.lane"]

# 3D detectors in point clouds. spconv's build for CUDA runs without a GPU as well.
FROM base AS pointpillars
ARG USER_ID
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ARG UV_TORCH_BACKEND
ARG SPCONV_CUDA
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/build,target=/build \
    --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    && /opt/uv/bin/uv --directory /build pip install --python /opt/slr-det -c constraints.txt \
        -r pyproject.toml --extra pointpillars --extra export "spconv-${SPCONV_CUDA} ; platform_machine == 'x86_64'" \
        --override without-cpu-spconv.txt \
    && /opt/uv/bin/uv pip install --python /opt/slr-det --no-deps /dist/*.whl
LABEL org.opencontainers.image.description="Compress 3D detectors by pruning with Surrogate Lagrangian Relaxation"
USER ${USER_ID}
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["slr-det", "doctor", "--need", "pointpillars"]
ENTRYPOINT ["python", "-m", "slr_det.pointpillars"]

# Image classifiers.
FROM base AS classify
ARG USER_ID
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ARG UV_TORCH_BACKEND
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/build,target=/build \
    --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    && /opt/uv/bin/uv --directory /build pip install --python /opt/slr-det -c constraints.txt \
        -r pyproject.toml --extra classify --extra export --extra shrink \
    && /opt/uv/bin/uv pip install --python /opt/slr-det --no-deps /dist/*.whl
LABEL org.opencontainers.image.description="Compress image classifiers by pruning with Surrogate Lagrangian Relaxation"
USER ${USER_ID}
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["slr-det", "doctor", "--need", "classify"]
ENTRYPOINT ["python", "-m", "slr_det.classify"]
