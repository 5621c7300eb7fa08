"""The pages of the documentation as data: their blocks, the commands in them, and which of those stand in for others.

Commands are in indented blocks and in ```sh fences; ```python is Python; ```text is output, which nothing runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
# The design's indented blocks are layouts and signatures.
WITHOUT_COMMANDS = frozenset({"docs/design.md"})
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
)


class Instead(Struct, frozen=True):
    """What is run in place of a command; nothing if empty."""

    run: str
    why: str


NOT_RUN = ""
INSTEAD = {
    "git clone ... && cd sampan": Instead(NOT_RUN, "the address is the reader's"),
    "./dev test conformance": Instead("./dev --help | grep './dev test'", "it is what runs this"),
    ".venv/bin/python -m tests.conformance.kubernetes.fuzz --operations 10000 --seed 1": Instead(
        NOT_RUN, "takes minutes"
    ),
    ".venv/bin/python -m tests.conformance.kubernetes.httpfuzz --operations 60000 --seed 11": Instead(
        NOT_RUN, "takes minutes"
    ),
    "./dev test": Instead("./dev --help | grep './dev test'", "it is what runs this"),
    "./dev lint": Instead("./dev --help | grep './dev lint'", "runs beside the tests"),
    "./dev soak": Instead("./dev --help | grep './dev soak'", "takes ten minutes"),
    "./dev bench": Instead("./dev --help | grep './dev bench'", "takes minutes"),
    "./dev up examples/shop": Instead("sampan up examples/shop --detach", "stays in the foreground"),
    "kubectl logs -n shop deployment/orders -f": Instead(
        "timeout 2 kubectl logs -n shop deployment/orders -f >/dev/null || test $? = 124", "goes on for ever"
    ),
    "sampan down": Instead(
        "sampan cluster --detach --directory other && sampan down --directory other", "other tests use this cluster"
    ),
    "sampan issuer --port 0": Instead("timeout 3 sampan issuer --port 0 || test $? = 124", "stays in the foreground"),
    "sampan audit verify orders.audit": Instead(
        "sampan audit verify orders.audit || test $? = 2", "the log is the reader's"
    ),
    "sampan down --delete": Instead("sampan down --delete --directory other && ! test -e other", "likewise"),
}


class Block(Struct, frozen=True):
    """`language` is empty for an indented block; `line` is that of its first line of text."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str, text: str | None = None) -> Iterator[Block]:
    lines = (text if text is not None else (ROOT / page).read_text()).splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = re.fullmatch(r"```(\w*)", line)
        if fence:
            end = next(n for n in range(number + 1, len(lines)) if lines[n] == "```")
            yield Block(page, number + 2, fence[1], "\n".join(lines[number + 1 : end]))
            number = end + 1
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number + 1, "", "\n".join(line[4:] for line in lines[number:end]).rstrip())
            number = end
        else:
            number += 1


def commands(page: str, text: str | None = None) -> list[str]:
    """The commands of a page, in order, without the remarks behind them."""
    if page in WITHOUT_COMMANDS:
        return []
    found = []
    for block in blocks(page, text):
        if block.language in ("", "sh"):
            found += list(_split(block.text))
    return found


def _split(text: str) -> Iterator[str]:
    """A command is a line, with those it goes on in: behind a backslash, or up to the end of a here-document."""
    lines = iter(text.splitlines())
    for line in lines:
        command = re.sub(r"\s+# .*$", "", line)
        while command.endswith("\\"):
            command += "\n" + next(lines)
        here = re.search(r"<<'(\w+)'", command)
        while here and not command.endswith(f"\n{here[1]}"):
            command += "\n" + next(lines)
        if command.strip() and not command.startswith("#"):
            yield command
