"""One API call as the pipeline sees it, whether it came over HTTP or from within the process, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.strategy import User
from sampan.cluster.store import Entry
from sampan.kube.errors import bad_request
from sampan.kube.objects import Object

TRUE = {"true", "1", "t", "T", "TRUE", "True"}


class Call(Struct):
    """`body` is bytes as they came, or a JSON-shaped value from within the process. `verb` is as RBAC names it."""

    method: str
    path: str
    query: dict[str, str]
    user: User
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    verb: str = ""
    kind: Kind | None = None
    namespace: str | None = None
    name: str = ""
    subresource: str | None = None
    warnings: list[str] = field(default_factory=list)
    user_agent: str = ""
    if_none_match: str = ""
    encoded: bool = False
    """Whether the answer goes out as bytes."""
    earlier: Any = None
    """The body with the first values of fields that it names twice; None where it names none twice."""
    reviewed: dict[str, Any] | None = None
    """What webhooks have said of this write so far; `admission/gate.py` keeps it."""
    charged: tuple[str, ...] = ()
    """Keys of the quotas that this write uses more of."""

    @property
    def served(self) -> Kind:
        assert self.kind is not None
        return self.kind

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be kept; `writeoptions.check` has seen to the value."""
        return bool(self.query.get("dryRun"))

    @property
    def field_manager(self) -> str:
        return self.query.get("fieldManager", "") or self.user_agent.partition("/")[0] or "unknown"

    def flag(self, name: str) -> bool:
        """A parameter that is there and not said to be false, as upstream reads them."""
        text = self.query.get(name)
        return text is not None and text.lower() not in {"false", "0"}

    def number(self, name: str, default: int = 0) -> int:
        """A non-negative integer parameter. Raises ApiError 400."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise bad_request(f"invalid value for {name}: {text!r} is not a non-negative integer")
        return int(text)


class Frame(Struct, frozen=True):
    """One element of a watch stream: an object as it goes out, or a stored version that goes out as it is."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    entry: Entry | None = None
    obj: Object | None = None

    @property
    def object(self) -> Object:
        return self.entry.object if self.entry is not None else self.obj or {}

    def encode(self) -> bytes:
        if self.entry is None:
            return b'{"type":"%b","object":%b}\n' % (self.type.encode(), msgspec.json.encode(self.obj))
        key = (self.type, self.entry.revision)
        made = _lines.get(key)
        if made is None or made[0] is not self.entry:
            if len(_lines) >= LINES:
                _lines.clear()
            made = _lines[key] = (self.entry, b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.entry.encoded))
        return made[1]


LINES = 256
_lines: dict[tuple[str, int], tuple[Entry, bytes]] = {}
"""The latest changes as they go out: made once, for all who watch."""


class Answer(Struct):
    """An object, an object already encoded, plain text, a stream of frames, or a stream of bytes."""

    code: int = 200
    obj: Any = None
    encoded: bytes | None = None
    frames: AsyncIterator[Frame] | None = None
    chunks: AsyncIterator[bytes] | None = None
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)

    def body(self) -> bytes:
        return self.encoded if self.encoded is not None else msgspec.json.encode(self.obj)

    def value(self) -> Any:
        if self.obj is None and self.encoded is not None:
            return msgspec.json.decode(self.encoded)
        return self.obj
