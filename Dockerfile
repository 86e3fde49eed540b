# docker build -t penchant .
# docker run -p 8642:8642 -v penchant:/data -e PENCHANT_API_KEY=… penchant
#
# The encoder's weights and the default bundle are in packages, so the container needs no network.
# To give pip your own configuration, add: --secret id=pip,src=pip.conf

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY clients/python clients/python
COPY models models
COPY service service
COPY scripts/install scripts/install
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    scripts/install /opt/penchant server,cpu,openvino,postgres,otel --copy

FROM python:3.11-slim
RUN useradd --system --uid 8642 --home-dir /data penchant \
    && install --directory --owner penchant /data
COPY --from=build /opt/penchant /opt/penchant
ENV PATH=/opt/penchant/bin:$PATH \
    PENCHANT_HOST=0.0.0.0 \
    PENCHANT_DATA_DIR=/data \
    PYTHONUNBUFFERED=1
USER penchant
VOLUME /data
EXPOSE 8642
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import sys, penchant; sys.exit(not penchant.Client(base_url='http://127.0.0.1:8642').ready())"]
# The server listens beyond loopback here, so it only starts if PENCHANT_API_KEY is set.
ENTRYPOINT ["penchant"]
CMD ["serve"]
