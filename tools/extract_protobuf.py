"""Make `src/sampan/kube/data/protobuf-*.json.gz`: the fields of the protobuf messages of the built-in kinds.

    python tools/extract_protobuf.py [--version v0.36.0]

Numbers and types come from `generated.proto` of Kubernetes' Go modules (fetched by `go mod download`); JSON names,
inlined fields and whether a zero is written come from the tags in their `types.go`. The same modules, the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from sampan.kube import kinds

DATA = Path(__file__).resolve().parent.parent / "src/sampan/kube/data"
MODULES = ("k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator")
META = "k8s.io.apimachinery.pkg.apis.meta.v1"
PACKAGES = {
    "": "k8s.io.api.core",
    "apiextensions.k8s.io": "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions",
    "apiregistration.k8s.io": "k8s.io.kube_aggregator.pkg.apis.apiregistration",
    "rbac.authorization.k8s.io": "k8s.io.api.rbac",
}
EXTRA = {("", "v1", "Binding"), ("policy", "v1", "Eviction"), ("autoscaling", "v1", "Scale"),
         ("authentication.k8s.io", "v1", "TokenRequest")}  # fmt: skip
OPTIONS = ("CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "Status", "UpdateOptions")

_MAP = re.compile(r"^\s+map<string, ([^>]+)> (\w+) = (\d+);")
_PLAIN = re.compile(r"^\s+(optional|repeated) (\S+) (\w+) = (\d+);")
_STRUCT = re.compile(r"^type (\w+) struct \{")
_TAG = re.compile(r"^\s+(?:\w+\s+)?(\S+)\s+`(.*)`")
_JSON, _NUMBER = re.compile(r'json:"([^"]*)"'), re.compile(r'protobuf:"[^",]+,(\d+)')
_SCALARS = ("string", "bytes", "bool", "int32", "int64", "double", "float", "uint32", "uint64")


def download(version: str) -> dict[str, Path]:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "go.mod").write_text("module x\n\ngo 1.22\n")
        wanted = [f"{module}@{version}" for module in MODULES]
        answer = subprocess.run(
            ["go", "mod", "download", "-json", *wanted], cwd=directory, check=True, capture_output=True, timeout=600
        ).stdout.decode()
    found = {}
    decoder = json.JSONDecoder()
    while answer.strip():
        row, end = decoder.raw_decode(answer.lstrip())
        answer = answer.lstrip()[end:]
        found[row["Path"]] = Path(row["Dir"])
    return found


def tags(directory: Path) -> dict[tuple[str, int], tuple[str, bool, bool]]:
    """(struct, number) -> (JSON name, inlined, a zero is kept)."""
    found = {}
    for source in sorted(directory.glob("*.go")):
        if source.name.endswith(("_test.go", ".pb.go")):
            continue
        struct = ""
        for line in source.read_text().splitlines():
            if match := _STRUCT.match(line):
                struct = match[1]
            elif (match := _TAG.match(line)) and (number := _NUMBER.search(match[2])):
                text = _JSON.search(match[2])
                name, *options = (text[1] if text else "").split(",")
                keep = match[1].startswith("*") or "omitempty" not in options
                found[struct, int(number[1])] = (name, "inline" in options or (not name and bool(text)), keep)
    return found


def messages(proto: Path) -> dict[str, dict[str, Any]]:
    """Message -> {"fields": {number: [name, type, shape, keep zero]}} and "list" for one that stands for a list.

    Shapes: "" one, "r" repeated, "m" map of strings, "i" inlined.
    """
    text = proto.read_text()
    package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
    assert package is not None
    known = tags(proto.parent)
    found: dict[str, dict[str, Any]] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"^message (\w+) \{", line):
            name = match[1]
            found[f"{package[1]}.{name}"] = {}
            continue
        if "if empty, will result in an empty slice" in line:
            found[f"{package[1]}.{name}"]["list"] = {}
        if match := _MAP.match(line):
            kind, field, number, shape = match[1], match[2], int(match[3]), "m"
        elif match := _PLAIN.match(line):
            kind, field, number, shape = match[2], match[3], int(match[4]), "r" if match[1] == "repeated" else ""
        else:
            continue
        if kind not in _SCALARS:
            kind = kind[1:] if kind.startswith(".") else f"{package[1]}.{kind}"
        json_name, inline, keep = known.get((name, number), (field, False, True))
        row = [json_name or field, kind, "i" if inline else shape, 1 if keep else 0]
        found[f"{package[1]}.{name}"][str(number)] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--version", default="v0.36.0", help="of the Go modules; v0.N is Kubernetes 1.N")
    options = parser.parse_args()
    every: dict[str, dict[str, Any]] = {}
    for directory in download(options.version).values():
        for proto in sorted(directory.rglob("generated.proto")):
            every |= messages(proto)
    roots: dict[str, str] = {}
    for group, version, kind in sorted({(r.group, r.version, r.kind) for r in kinds.BUILTIN} | EXTRA):
        package = PACKAGES.get(group, f"k8s.io.api.{group.partition('.')[0]}")
        for name in (kind, kind + "List"):
            message = f"{package}.{version}.{name}"
            if message in every:
                roots[f"{group}/{version}/{name}".lstrip("/")] = message
    roots |= {f"*/{kind}": f"{META}.{kind}" for kind in OPTIONS}
    wanted, queue = set(roots.values()), list(roots.values())
    while queue:
        for row in every[queue.pop()].values():
            if row and row[1] in every and row[1] not in wanted:
                wanted.add(row[1])
                queue.append(row[1])
    content = {"kinds": roots, "messages": {name: every[name] for name in sorted(wanted)}}
    minor = options.version.split(".")[1]
    path = DATA / f"protobuf-1.{minor}.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{path.name}: {path.stat().st_size} bytes, {len(roots)} kinds, {len(wanted)} messages")


if __name__ == "__main__":
    main()
