# gvbsm in a container, on the CPU or on a GPU.
#   docker build --tag gvbsm .
#   docker build --tag gvbsm:cuda --build-arg DEVICE=cuda .
#   docker run --rm --volume "$PWD:/work" gvbsm run digits
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" gvbsm:cuda run cifar10
FROM python:3.12-slim

ARG DEVICE=cpu
RUN case "$DEVICE" in \
      cpu) index=https://download.pytorch.org/whl/cpu ;; \
      cuda) index=https://pypi.org/simple ;; \
      *) echo "DEVICE must be cpu or cuda, got $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir --index-url "$index" "torch>=2.9" "torchvision>=0.24"

WORKDIR /opt/gvbsm
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir .

# Files that a run writes to /work belong to the user of `docker run --user`.
WORKDIR /work
ENV HOME=/tmp
ENTRYPOINT ["gvbsm"]
