"""What every source of settings offers. Files, etcd and Consul implement it; `live.py` makes settings of it.

Entries are text by the name of the field, JSON where a field has structure. A source may also hold one JSON document
for all fields; a field of its own then wins over that document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from sampan.service.coordination.away import Away

Entries = Mapping[str, Any]


class Malformed(Exception):
    """The source answers, but what it holds is not entries. The message shows no value."""


class Source(Protocol):
    place: str  # where it is, for messages; without credentials

    async def load(self) -> Entries:
        """All entries, now. Away when the source does not answer, Malformed."""
        ...

    def watch(self) -> AsyncIterator[Entries | Malformed]:
        """All entries after each change since `load`, or since the last ones this gave, for as long as nothing fails.

        Raises Away when the source is lost; the next call goes on where this one ended: no change is missed (a source
        that holds only the present state gives that one).
        """
        ...

    async def check(self) -> None:
        """Away when it does not answer."""
        ...

    async def close(self) -> None: ...


def document(text: str, what: str) -> dict[str, Any]:
    """A JSON object of fields. Malformed."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Malformed(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Malformed(f"{what} is not a JSON object of fields")
    return found


def merged(whole: str | None, fields: Mapping[str, str], what: str) -> Entries | Malformed:
    """One document and keys of fields as entries."""
    if whole is None or not whole.strip():
        return dict(fields)
    try:
        return {**document(whole, what), **fields}
    except Malformed as error:
        return error


__all__ = ["Away", "Entries", "Malformed", "Source", "document", "merged"]
