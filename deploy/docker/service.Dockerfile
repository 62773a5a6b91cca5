# A team's services in an image of their own, on top of the mesh's: here the shop that
# deploy/compose runs. Build it in the root of a clone, after the mesh's own image:
#
#   docker build --file deploy/docker/service.Dockerfile --tag spanmesh-shop:0.1.0 .

FROM spanmesh:0.1.0
WORKDIR /app
# Where services need packages of their own:
#COPY requirements.txt ./
#USER root
#RUN ["/usr/local/bin/python", "-m", "pip", "--python", "/opt/spanmesh", "install", "--no-cache-dir", "--requirement", "requirements.txt"]
#USER 65532:65532
COPY deploy/compose/shop ./shop
ENV SHOP_METRICS=127.0.0.1:9465
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1:9465/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "shop"]
CMD ["users"]
