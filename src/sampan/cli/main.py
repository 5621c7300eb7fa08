"""Entry point of the `sampan` command. Filled in by the commands beside it."""

from __future__ import annotations


def main() -> int:
    return 0
