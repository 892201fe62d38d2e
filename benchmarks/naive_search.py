"""What a competent user would write today: torch, open_clip's RN50 and qdrant-client's local mode.

    python -m benchmarks.naive_search build FOLDER     10,000 random points
    python -m benchmarks.naive_search IMAGE FOLDER     the ten nearest of IMAGE

RN50 with random weights costs what it costs with pretrained ones, which cannot be downloaded here.
"""

import sys

from qdrant_client import QdrantClient, models

FOLDER, COLLECTION, POINTS, DIMENSIONS = sys.argv[2], "chest", 10_000, 1024


def build() -> None:
    import warnings

    from benchmarks.random_index import payloads, unit_vectors

    warnings.simplefilter("ignore")
    client = QdrantClient(path=FOLDER)
    vectors = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    client.create_collection(COLLECTION, vectors_config=vectors)
    rows = zip(unit_vectors(POINTS, DIMENSIONS), payloads(POINTS), strict=True)
    points = [models.PointStruct(id=n, vector=v.tolist(), payload=p) for n, (v, p) in enumerate(rows)]
    client.upload_points(COLLECTION, points)
    client.close()


def search(image: str) -> None:
    import open_clip
    import torch
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms("RN50", pretrained=None)
    model.eval()
    with torch.inference_mode():
        vector = model.encode_image(preprocess(Image.open(image).convert("RGB")).unsqueeze(0))
        vector = torch.nn.functional.normalize(vector, dim=-1)[0].numpy()
    client = QdrantClient(path=FOLDER)
    for hit in client.query_points(COLLECTION, query=vector, limit=10).points:
        payload = hit.payload or {}
        print(f"{hit.score:.4f}", payload["patient"], payload["site"], payload["outcome"], payload["path"])
    client.close()


if sys.argv[1] == "build":
    build()
else:
    search(sys.argv[1])
