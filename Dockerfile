# syntax=docker/dockerfile:1
# Two images: `docker build --target compiler` compiles and runs, `--target runtime` (the last stage, so the default)
# only runs artifacts: no torch, no transformers, no gcc, no shell tools beyond the base's, not root.
#
# Offline: `make wheelhouse` first, then `docker build --network none --build-arg PIP_FIND_LINKS=/src/wheelhouse
# --build-arg PIP_NO_INDEX=1 ...` with a base image that has what apt-get below installs.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

FROM base AS compiler
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_FIND_LINKS=
ARG PIP_NO_INDEX=
WORKDIR /src
COPY . .
RUN PIP_FIND_LINKS="${PIP_FIND_LINKS}" PIP_NO_INDEX="${PIP_NO_INDEX}" make venv PYTHON=python3 VENV=/opt/xamc
ENV PATH=/opt/xamc/bin:$PATH XAMC_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["xamc"]
CMD ["--help"]

FROM base AS runtime-packages
ARG PIP_FIND_LINKS=
ARG PIP_NO_INDEX=
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY xamc xamc
RUN python3 -m venv /opt/xamc \
    && PIP_FIND_LINKS="${PIP_FIND_LINKS}" PIP_NO_INDEX="${PIP_NO_INDEX}" \
       /opt/xamc/bin/pip install -c constraints.txt '.[runtime]' \
    && /opt/xamc/bin/pip uninstall -y pip setuptools

FROM base AS runtime
COPY --from=runtime-packages /opt/xamc /opt/xamc
RUN useradd --system --no-create-home --uid 10001 xamc
USER 10001
ENV PATH=/opt/xamc/bin:$PATH
WORKDIR /artifact
# docker run --rm --network none --read-only -v "$PWD/vacc_deploy/my-model:/artifact:ro" xamc run . --prompt "..."
ENTRYPOINT ["xamc"]
CMD ["verify", "."]
