"""Make `src/sampan/kube/data/empties-*.json.gz`: what the built-in kinds do with what is empty.

    python -m tools.extract_empties [--version v0.36.0]

`omitted`: definition -> fields left out when they are "", 0 or false (and not when a pointer in Go says they were
given); `nulls`: definition -> fields that are null, and not left out, where they are missing. Read from the types and
tags in `types.go` of Kubernetes' Go modules (fetched by `go mod download`). The same modules, the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from sampan.kube import schema
from tools.extract_protobuf import DATA, download

PREFIXES = {
    "k8s.io/api": "io.k8s.api",
    "k8s.io/apimachinery": "io.k8s.apimachinery",
    "k8s.io/apiextensions-apiserver": "io.k8s.apiextensions-apiserver",
    "k8s.io/kube-aggregator": "io.k8s.kube-aggregator",
}
_STRUCT = re.compile(r"^type (\w+) struct \{(.*?)^\}", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"^\s*(?:type )?(\w+) =? ?([\[\]\w.]+)$", re.MULTILINE)
_FIELD = re.compile(r'^\s+(?:(\w+)\s+)?([*\[\]\w.]+)\s+`[^`]*json:"([^"]*)"', re.MULTILINE)
_SCALARS = frozenset({"string", "bool", "int", "int32", "int64", "float64", "uint32", "uint64", "intstr.Type"})
_TIMES = frozenset({"metav1.Time", "metav1.MicroTime", "v1.Time", "Time", "MicroTime"})
Fields = dict[str, list[str]]


def packages(version: str) -> dict[str, str]:
    """The Go source of each package of API types, by the beginning of its definitions' names."""
    found: dict[str, str] = {}
    for module, directory in download(version).items():
        for path in directory.rglob("types*.go"):
            text = found.get(name := ".".join([PREFIXES[module], *path.parent.relative_to(directory).parts]), "")
            found[name] = text + path.read_text()
    return found


class Package:
    """The types of one package of Go source: its structs' fields (name, type, JSON tag), and other names of types."""

    def __init__(self, text: str) -> None:
        self.named = {name: target for name, target in _NAMED.findall(text) if name not in ("type", target)}
        self.structs = {name: _FIELD.findall(body) for name, body in _STRUCT.findall(text)}

    def plain(self, go: str) -> str:
        """What a type is in the end."""
        while go in self.named:
            go = self.named[go]
        return go

    def fields(self, struct: str) -> Iterator[tuple[str, str, list[str]]]:
        """(JSON name, Go type, flags) of the fields of a struct and of those inlined in it."""
        for field, go, tag in self.structs.get(struct, ()):
            name, *flags = tag.split(",")
            if "inline" in flags or (not name and not field):
                yield from self.fields(go.rpartition(".")[2].lstrip("*"))
            elif name and name != "-":
                yield name, go, flags


def empties(sources: dict[str, str], known: set[str]) -> tuple[Fields, Fields]:
    omitted: Fields = {}
    nulls: Fields = {}
    found = {name: Package(text) for name, text in sources.items()}
    shared = [found["io.k8s.api.core.v1"], found["io.k8s.apimachinery.pkg.apis.meta.v1"]]
    for name, package in found.items():
        for struct in package.structs:
            definition = f"{name}.{struct}"
            for field, go, flags in package.fields(struct) if definition in known else ():
                plain = package.plain(go)
                if "." in plain and not plain.startswith(("*", "[", "map")):
                    plain = next((p for other in shared if (p := other.plain(plain.split(".")[1])) in _SCALARS), plain)
                if "omitempty" not in flags and "omitzero" not in flags:
                    if plain in _TIMES or plain.startswith(("*", "[", "map")):
                        nulls.setdefault(definition, []).append(field)
                elif plain in _SCALARS:
                    omitted.setdefault(definition, []).append(field)
                elif plain in _TIMES and "omitzero" not in flags:
                    nulls.setdefault(definition, []).append(field)
    return omitted, nulls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="v0.36.0")
    parser.add_argument("--kubernetes", default="1.36")
    options = parser.parse_args()
    omitted, nulls = empties(packages(options.version), set(schema.load(options.kubernetes).names()))
    found = {"omitted": omitted, "nulls": nulls}
    text = json.dumps(
        {key: {n: sorted(set(f)) for n, f in rows.items()} for key, rows in found.items()}, sort_keys=True
    )
    path: Path = DATA / f"empties-{options.kubernetes}.json.gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{path.name}: {sum(map(len, omitted.values()))} omitted, {sum(map(len, nulls.values()))} null")


if __name__ == "__main__":
    main()
