"""Make `src/sampan/kube/data/schemas-*.json.gz`: the schemas of the built-in kinds, from PyPI's `kubernetes-validate`.

    python tools/extract_schemas.py [--wheel FILE] [--kubernetes 1.36]

Two files come out: the definitions without prose, and their descriptions (for `kubectl explain`), so that only the
first is read at start-up. The same wheel gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sampan.kube import kinds

PACKAGE = "kubernetes-validate==1.37.0"
DATA = Path(__file__).resolve().parent.parent / "src/sampan/kube/data"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."

# Kinds that are spoken besides the stored ones: bodies of subresources, options, discovery.
EXTRA = {
    ("", "v1", "Binding"), ("policy", "v1", "Eviction"), ("autoscaling", "v1", "Scale"),
    ("authentication.k8s.io", "v1", "TokenRequest"),
}  # fmt: skip
META_KINDS = ("APIGroup", "APIGroupList", "APIResourceList", "DeleteOptions", "LabelSelector", "ListMeta", "ObjectMeta",
              "Patch", "Status", "WatchEvent", "Condition")  # fmt: skip

# Fields the schemas call required which the server fills or takes empty.
LENIENT = {
    "io.k8s.api.discovery.v1.EndpointSlice": {"endpoints"},
    "io.k8s.api.authentication.v1.TokenRequestSpec": {"audiences"},
    "io.k8s.api.networking.v1.NetworkPolicySpec": {"podSelector"},
    "io.k8s.api.core.v1.LimitRangeSpec": {"limits"},
    "io.k8s.api.core.v1.Event": {"metadata"},
    "io.k8s.api.core.v1.Binding": {"metadata"},
}

# metrics.k8s.io is served by an extension upstream, so its schemas are in no core document: these are written by hand.
_MAP = {"type": "object", "additionalProperties": {"$ref": "io.k8s.apimachinery.pkg.api.resource.Quantity"}}
_METRICS = "io.k8s.metrics.pkg.apis.metrics.v1beta1."


def _metrics(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"$ref": META + "ObjectMeta"},
            "timestamp": {"$ref": META + "Time"},
            "window": {"type": "string"},
            **fields,
        },
        "x-kubernetes-group-version-kind": [{"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind}],
    }


METRICS = {
    _METRICS + "NodeMetrics": _metrics("NodeMetrics", {"usage": _MAP}),
    _METRICS + "PodMetrics": _metrics(
        "PodMetrics", {"containers": {"type": "array", "items": {"$ref": _METRICS + "ContainerMetrics"}}}
    ),
    _METRICS + "ContainerMetrics": {"type": "object", "properties": {"name": {"type": "string"}, "usage": _MAP}},
}


def definitions(wheel: Path, kubernetes: str) -> dict[str, Any]:
    path = f"kubernetes_validate/kubernetes-json-schema/v{kubernetes}.0-local/_definitions.json"
    with zipfile.ZipFile(wheel) as archive:
        found: dict[str, Any] = json.loads(archive.read(path))["$defs"]
    return found


def plain(node: Any) -> Any:
    """OpenAPI v3 form: one type (null is implied), references by bare name."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for key, value in node.items():
        if key == "$ref" and isinstance(value, str):
            result[key] = value.rpartition("/")[2]
        elif key == "type" and isinstance(value, list):
            result[key] = next(kind for kind in value if kind != "null")
        else:
            result[key] = plain(value)
    return result


def references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return found.union(*(references(value) for value in node.values()))


def wanted(all_definitions: dict[str, Any]) -> set[str]:
    kinds_wanted = {(r.group, r.version, r.kind) for r in kinds.BUILTIN} | EXTRA
    kinds_wanted |= {(group, version, kind + "List") for group, version, kind in kinds_wanted}
    names = {META + kind for kind in META_KINDS}
    for name, node in all_definitions.items():
        for row in node.get("x-kubernetes-group-version-kind", ()):
            if (row["group"], row["version"], row["kind"]) in kinds_wanted:
                names.add(name)
    queue = sorted(names)
    while queue:
        for name in references(all_definitions[queue.pop()]) - names:
            names.add(name)
            queue.append(name)
    return names


def split(name: str, node: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A definition without prose, and its prose: field name -> text, the definition's own under the empty name."""
    prose = {"": node.pop("description")} if "description" in node else {}
    for field, child in node.get("properties", {}).items():
        if "description" in child:
            prose[field] = child.pop("description")
        if field in ("apiVersion", "kind"):
            child.pop("enum", None)
    if required := [field for field in node.pop("required", ()) if field not in LENIENT.get(name, ())]:
        node["required"] = sorted(required)
    return node, prose


def add_zeros(definitions: dict[str, Any], zeros: dict[str, dict[str, Any]]) -> None:
    """Note in each field that is never left out what it is then: `default` (see `extract_zeros.py`)."""
    for name, fields in zeros.items():
        for field, value in fields.items():
            child = definitions.get(name, {}).get("properties", {}).get(field)
            if child is not None:
                child["default"] = value


def write(path: Path, content: Any) -> None:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{path.name}: {path.stat().st_size} bytes, {len(content)} definitions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help=f"a downloaded wheel of {PACKAGE}")
    parser.add_argument("--kubernetes", default="1.36")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if options.wheel is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", directory, PACKAGE]
            subprocess.run(command, check=True, timeout=600)
            options.wheel = next(Path(directory).glob("*.whl"))
        found = plain(definitions(options.wheel, options.kubernetes)) | METRICS
    add_zeros(found, json.loads((DATA / f"zeros-{options.kubernetes}.json").read_text()))
    schemas, texts = {}, {}
    for name in sorted(wanted(found)):
        schemas[name], prose = split(name, found[name])
        if prose:
            texts[name] = prose
    DATA.mkdir(exist_ok=True)
    write(DATA / f"schemas-{options.kubernetes}.json.gz", schemas)
    write(DATA / f"descriptions-{options.kubernetes}.json.gz", texts)


if __name__ == "__main__":
    main()
