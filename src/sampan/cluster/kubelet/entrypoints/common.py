"""What the entry programs share."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def secret(*names: str) -> str:
    """The first of the variables that is set; `NAME_FILE` names a file holding it."""
    for name in names:
        if value := os.environ.get(name):
            return value
        if path := os.environ.get(f"{name}_FILE"):
            return Path(path).read_text().strip()
    return ""


def address() -> str:
    """Where a server listens: the pod's address in a network it shares, everywhere in one of its own."""
    return os.environ.get("SAMPAN_POD_IP") or "0.0.0.0"  # noqa: S104


def unprivileged() -> tuple[int, int] | None:
    """Whom a server that refuses root runs as: nobody; None when we are not root anyway."""
    if os.getuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
