"""docs/guides/cache.md and docs/guides/objects.md, run: their files make systems that do what the pages say."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers.s3 import ROOT, S3Server, start_s3

GUIDES = Path(__file__).parents[3] / "docs/guides"


def written(page: str, directory: Path) -> None:
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", (GUIDES / page).read_text(), re.DOTALL):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def ask(service: Any, path: str, data: bytes | None = None) -> tuple[int, bytes]:
    """As a patient client: a machine that is busy with other tests may have the service shed load."""
    for _ in range(50):
        status, body = service.http(path, data)
        if status != 503:
            break
        time.sleep(0.2)
    return status, body


def test_the_guide_to_caches(tmp_path: Path, serve: Any, redis_server: Any) -> None:
    written("cache.md", tmp_path)
    where = {"SAMPAN_CACHE_PRICES_URI": redis_server.uri, "SAMPAN_CACHE_VISITS_URI": redis_server.uri}
    first, second = (serve("web", SAMPAN_APP="shopfront.system:shopfront", **where).ready() for _ in range(2))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(first, "/prices/7"), range(20)))
    assert {(status, json.loads(body)["loads"]) for status, body in answers} == {(200, 1)}
    assert json.loads(ask(second, "/prices/7")[1]) == {"cents": 700, "loads": 0}
    assert [ask(first, "/prices/1000")[0], ask(second, "/prices/1000")[0]] == [404, 404]
    assert json.loads(ask(second, "/prices/7")[1])["loads"] == 0  # that there is nothing was known
    put = urllib.request.Request(f"http://127.0.0.1:{second.port}/prices/7/5", method="PUT")
    urllib.request.urlopen(put, timeout=10).close()
    assert json.loads(ask(second, "/prices/7")[1])["cents"] == 5
    assert [json.loads(ask(s, "/visits/home", b"{}")[1])["today"] for s in (first, second)] == [1, 2]
    metrics = ask(first, "/metrics")[1].decode()
    assert 'cache_loads_total{cache="prices",outcome="loaded"} 1' in metrics
    assert 'cache_loads_total{cache="prices",outcome="coalesced"}' in metrics
    assert [first.stop(), second.stop()] == [0, 0]


@pytest.mark.parametrize("store", ["file", "s3"])
def test_the_guide_to_objects(tmp_path: Path, serve: Any, store: str) -> None:
    written("objects.md", tmp_path)
    server: S3Server | None = None
    where = {"SAMPAN_BUCKET_PHOTOS_URI": f"file://{tmp_path}/photos"}
    if store == "s3":
        server = start_s3(tmp_path)
        server.client().create_bucket(Bucket="gallery")
        binding = tmp_path / "bindings/bucket-photos"
        binding.mkdir(parents=True)
        entries = {"type": "s3", "uri": "s3://gallery/photos", "endpoint": server.uri, **ROOT}
        for name, value in entries.items():
            (binding / name).write_text(value)
        where = {}
    try:
        web = serve("web", SAMPAN_APP="gallery.system:gallery", **where).ready()
        data = b"a large picture " * 60_000
        put = urllib.request.Request(f"http://127.0.0.1:{web.port}/photos/cat.jpg", data, method="PUT")
        with urllib.request.urlopen(put, timeout=30) as reply:
            assert json.load(reply) == {"size": len(data), "type": "image/jpeg"}
        assert ask(web, "/photos/cat.jpg") == (200, data)
        assert ask(web, "/photos/dog.jpg")[0] == 404
        assert json.loads(ask(web, "/thumbnails/none")[1]) == {"size": 12}
        assert json.loads(ask(web, "/photos")[1]) == ["2026/cat.jpg"]
        assert ask(web, "/photos/..%2F..%2Fetc%2Fpasswd")[0] in (404, 500)
        assert 'object_bytes_total{bucket="photos",direction="written"} 960000' in ask(web, "/metrics")[1].decode()
        assert web.stop() == 0
        assert ROOT["secret-key"] not in web.output()
    finally:
        if server is not None:
            server.stop()
