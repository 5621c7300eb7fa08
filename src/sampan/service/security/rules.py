"""Which paths are public, and which scopes a path asks for.

Leave is read narrowly and duty widely: a path that could be read in two ways (`..`, `//`, an escaped slash) is never
public, and is held against the rules both as it is and as a router might tidy it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Final

from sampan.model.security import rule

_DOUBTFUL: Final = re.compile(r"//|/\.{1,2}(/|$)|[\\\x00-\x1f\x7f]|;")
_ESCAPED: Final = re.compile(rb"%(2f|5c|00|2e)", re.IGNORECASE)


class Rules:
    """`public` paths and `scopes` by path, as declared in `model.security.Security`."""

    def __init__(self, public: Sequence[str], scopes: Mapping[str, str | Sequence[str]]) -> None:
        found = [parsed for text in public if (parsed := rule(text))]
        self.paths = frozenset(path for _, path, prefix in found if not prefix)
        self.prefixes = tuple(path for _, path, prefix in found if prefix)
        self.demands: list[tuple[str, str, bool, frozenset[str]]] = []
        for text, names in scopes.items():
            if parsed := rule(text):
                self.demands.append((*parsed, frozenset([names] if isinstance(names, str) else names)))

    def is_public(self, path: str, raw_path: bytes) -> bool:
        if path not in self.paths and not (self.prefixes and path.startswith(self.prefixes)):
            return False
        return not doubtful(path, raw_path)

    def scopes(self, method: str, path: str) -> frozenset[str]:
        """All scopes asked for; a rule for GET is one for HEAD as well."""
        if not self.demands:
            return frozenset()
        asked, readings = frozenset[str](), {path, tidy(path)}
        for wanted, rule_path, prefix, names in self.demands:
            if wanted and wanted != method and not (wanted == "GET" and method == "HEAD"):
                continue
            for one in readings:
                if one == rule_path or (prefix and one.startswith(rule_path)):
                    asked |= names
        return asked


def doubtful(path: str, raw_path: bytes) -> bool:
    """Whether two parts of a system might read `path` differently."""
    return bool(_DOUBTFUL.search(path)) or (b"%" in raw_path and bool(_ESCAPED.search(raw_path)))


def tidy(path: str) -> str:
    """Without doubled slashes, dots, and the slash at the end."""
    return posixpath.normpath("/" + path.replace("\\", "/").lstrip("/"))
