"""Puts compiled objects into a directory, one file per declaration, and tells whether the directory has drifted."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kube.objects import Object

HEADER = "# Compiled by Sampan from the declaration; change that instead, and compile again.\n"
COMPONENT, NAME = "app.kubernetes.io/component", "app.kubernetes.io/name"

# libyaml is ten times as fast; the pure dumper gives the same bytes.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


@dataclass(frozen=True)
class Drift:
    """A file that is not what the declaration compiles to. `diff` goes from the file to the declaration."""

    path: Path
    kind: Literal["missing", "changed", "stale"]
    diff: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}" + (f"\n{self.diff}" if self.diff else "")


def dump(objects: Iterable[Object]) -> str:
    """The objects as a stream of YAML documents; equal objects give equal bytes."""
    return yaml.dump_all(
        objects,
        Dumper=_Dumper,
        explicit_start=True,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )


def render(objects: Sequence[Object]) -> dict[str, str]:
    """File name -> content: `application.yaml`, and `service-users.yaml` and the like."""
    grouped: dict[str, list[Object]] = {}
    for obj in objects:
        labels = obj["metadata"].get("labels") or {}
        component, name = labels.get(COMPONENT), labels.get(NAME)
        if component in ("application", name):
            file = f"{component}.yaml"
        else:
            file = f"{component}-{name}.yaml" if component and name else "other.yaml"
        grouped.setdefault(file, []).append(obj)
    return {file: HEADER + dump(group) for file, group in grouped.items()}


def write(objects: Sequence[Object], directory: Path) -> list[Path]:
    """Make `directory` hold the objects; give the files that changed. Stale files of ours are removed, others kept."""
    directory.mkdir(parents=True, exist_ok=True)
    rendered = render(objects)
    changed = []
    for file, content in rendered.items():
        path = directory / file
        if _read(path) == content:
            continue
        beside = directory / f".{file}.{os.getpid()}"
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)
        changed.append(path)
    for path in _ours(directory):
        if path.name not in rendered:
            path.unlink()
            changed.append(path)
    return changed


def check(objects: Sequence[Object], directory: Path) -> list[Drift]:
    """What `write` would change."""
    rendered = render(objects)
    drifts = []
    for file, content in rendered.items():
        path = directory / file
        present = _read(path)
        if present is None:
            drifts.append(Drift(path, "missing"))
        elif present != content:
            lines = difflib.unified_diff(
                present.splitlines(), content.splitlines(), str(path), "the declaration", lineterm=""
            )
            drifts.append(Drift(path, "changed", "\n".join(lines)))
    drifts += [Drift(path, "stale") for path in _ours(directory) if path.name not in rendered]
    return drifts


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _ours(directory: Path) -> list[Path]:
    """The files in `directory` that were compiled, by their first line."""
    return [path for path in sorted(directory.glob("*.yaml")) if (_read(path) or "").startswith(HEADER)]
