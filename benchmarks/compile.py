"""From a declaration to manifests: whole processes beside cdk8s, and the writing of YAML beside its parts.

cdk8s is given the finished objects of the shop and only has to build and print them, while ours also loads the
declaration, validates it and derives the objects: the comparison favours the peer. It needs Node, as cdk8s always does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ROOT, PeerMissing, Row, compare, median, peer_python, process, program, row

SHOP = ROOT / "examples/shop"
OURS = """
import sys
sys.path.insert(0, sys.argv[1])
from shop.system import shop
from pathlib import Path
from sampan.compile import compile_application, writer
writer.write(compile_application(shop, "prod"), Path(sys.argv[2]))
"""
CDK8S = """
import json, os, sys
import cdk8s
app = cdk8s.App(outdir=sys.argv[2])
chart = cdk8s.Chart(app, "shop")
for number, obj in enumerate(json.load(open(sys.argv[1]))):
    api_object = cdk8s.ApiObject(
        chart, str(number), api_version=obj["apiVersion"], kind=obj["kind"],
        metadata=cdk8s.ApiObjectMetadata(**obj["metadata"]),
    )
    for key, value in obj.items():
        if key not in ("apiVersion", "kind", "metadata"):
            api_object.add_json_patch(cdk8s.JsonPatch.add("/" + key, value))
app.synth()
"""
IMPORTED = "import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
AREA = "compile"


def run() -> Iterable[Row]:
    from sampan.compile import compile_application, writer

    sys.path.insert(0, str(SHOP))
    system = importlib.import_module("shop.system").shop
    objects = compile_application(system, "prod")
    many = [obj for _ in range(20) for obj in objects]
    yield row(AREA, "validate and compile the shop, in process", median(lambda: _compile(system)) * 1000, "ms")

    ours, pure = compare(lambda: _drop(writer.dump(many)), lambda: _drop(_pure(many)), 5)
    yield row(AREA, f"{len(many)} objects to YAML", ours * 1000, "ms", peer="PyYAML, pure", peer_value=pure * 1000)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given, out = folder / "objects.json", folder / "out"
        given.write_text(json.dumps(objects))
        compiled = process(sys.executable, "-c", OURS, SHOP, out)
        yield from _kustomize(compiled, out)
        yield from _cdk8s(compiled, given, folder / "cdk8s")


def _compile(system: Any) -> None:
    from sampan.compile import compile_application

    compile_application(system, "prod")


def _drop(_: object) -> None:
    """So that a result is not taken for a measurement."""


def _pure(objects: list[Any]) -> str:
    text: str = yaml.dump_all(objects, Dumper=yaml.SafeDumper, sort_keys=False)
    return text


def _kustomize(compiled: Any, out: Path) -> Iterable[Row]:
    try:
        kubectl = program("kubectl", "it carries kustomize")
    except PeerMissing as error:
        yield _alone(compiled, error)
        return
    compiled()
    listed = sorted(path.name for path in out.glob("*.yaml") if path.name != "kustomization.yaml")
    (out / "kustomization.yaml").write_text(json.dumps({"resources": listed}))
    ours, peer = compare(compiled, process(kubectl, "kustomize", out))
    yield row(
        AREA, "the shop, whole process", ours * 1000, "ms", peer="kubectl kustomize, same files", peer_value=peer * 1000
    )


def _alone(compiled: Any, error: PeerMissing) -> Row:
    print(f"{AREA}: without a peer: {error}", file=sys.stderr)
    return row(AREA, "the shop, whole process", median(compiled) * 1000, "ms")


def _cdk8s(compiled: Any, given: Path, out: Path) -> Iterable[Row]:
    program("node", "cdk8s runs on it; Debian: apt-get install nodejs")
    python = peer_python("cdk8s", ["cdk8s==2.70.115", "setuptools<81"])
    out.mkdir()
    ours, peer = compare(compiled, process(python, "-c", CDK8S, given, out), 5)
    yield row(AREA, "the shop, whole process", ours * 1000, "ms", peer="cdk8s, same objects", peer_value=peer * 1000)
    ours, peer = compare(_imported(sys.executable, "sampan"), _imported(python, "cdk8s"), 5)
    yield row(AREA, "import", ours * 1000, "ms", peer="cdk8s", peer_value=peer * 1000)
    ours, peer = compare(_imported(sys.executable, "sampan.model"), _imported(python, "cdk8s"), 5)
    yield row(AREA, "import of the model", ours * 1000, "ms", peer="cdk8s", peer_value=peer * 1000)


def _imported(python: str | Path, module: str) -> Any:
    import subprocess

    def measured() -> float:
        done = subprocess.run(
            [str(python), "-c", IMPORTED.format(module=module)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        )
        return float(done.stdout)

    return measured
