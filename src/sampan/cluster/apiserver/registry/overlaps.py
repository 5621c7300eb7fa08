"""Warnings of files in one volume that are in each other's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube.objects import Object

_Place = tuple[str, str]
"""A path in a volume, and what it comes from, if there may be several."""


def overlaps(volumes: list[Object]) -> list[str]:
    """What to tell of paths that are the same, or inside of one another."""
    found: list[str] = []
    for volume in volumes:
        name = volume.get("name") or ""
        for source, noun in (("configMap", "name"), ("secret", "secretName"), ("downwardAPI", "")):
            given = sub(volume, source)
            title = f"{source[0].upper()}{source[1:]}{f' {_quoted(given.get(noun))}' if noun else ''}"
            found += _told(name, title, ((path, "") for path in _paths(given)))
        if volume.get("projected") is not None:
            sources = sub(volume, "projected").get("sources")
            found += [
                f"volume {_quoted(name)} (Projected) has no sources provided" for source in maps(sources) if not source
            ]
            found += _told(name, "Projected", _projected(maps(sources)))
    return found


def _told(volume: str, title: str, places: Iterator[_Place]) -> list[str]:
    found: list[str] = []
    before: list[_Place] = []
    for path, source in places:
        place = (path.rstrip("/"), source)
        found += [
            f"volume {_quoted(volume)} ({title}): overlapping paths: {_shown(place)} with {_shown(other)}"
            for other in before
            if place[0] and other[0] and _collide(place[0], other[0])
        ]
        before.append(place)
    return found


def _collide(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _projected(sources: list[Object]) -> Iterator[_Place]:
    for source in sources:
        if "configMap" in source:
            part = sub(source, "configMap")
            yield from ((path, f"ConfigMap {_quoted(part.get('name'))}") for path in _paths(part))
        elif "secret" in source:
            part = sub(source, "secret")
            yield from ((path, f"Secret {_quoted(part.get('name'))}") for path in _paths(part))
        elif "downwardAPI" in source:
            yield from ((path, "DownwardAPI") for path in _paths(sub(source, "downwardAPI")))
        elif "serviceAccountToken" in source:
            yield sub(source, "serviceAccountToken").get("path") or "", "ServiceAccountToken"
        elif "clusterTrustBundle" in source:
            bundle = sub(source, "clusterTrustBundle")
            named = bundle.get("name") if bundle.get("name") is not None else bundle.get("signerName")
            yield bundle.get("path") or "", f"ClusterTrustBundle {_quoted(named)}"


def _paths(source: Object) -> list[str]:
    return [str(item.get("path") or "") for item in maps(source.get("items"))]


def _quoted(text: Any) -> str:
    return f'"{text or ""}"'


def _shown(place: _Place) -> str:
    path, source = place
    return f"{_quoted(path)} ({source})" if source else _quoted(path)
