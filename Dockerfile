# nerp with the pinned, tested packages, on Debian. torch from PyPI brings the CUDA runtime with it;
# the machine brings the driver. docs/use.md says how it is built and run, and for Apptainer.
FROM debian:bookworm-slim

# Debian keeps one version of a package per release, so that none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/nerp/bin:$PATH

COPY . /opt/source
RUN python3 -m venv /opt/nerp \
    && pip install --no-cache-dir --constraint /opt/source/scripts/lib/constraints.txt \
        '/opt/source[slurm,tensorboard,onnx]' \
    && rm -rf /opt/source \
    && nerp --version

# Data, runs, and what is downloaded (~/.cache) lie in the folder that is mounted here.
WORKDIR /work
ENV HOME=/work

ENTRYPOINT ["nerp"]
CMD ["help"]
