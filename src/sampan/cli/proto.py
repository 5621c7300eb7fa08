"""`sampan proto`: Python from .proto files, written beside them; the same input gives the same bytes.

For shop/users/users.proto: users_pb2.py and users_pb2.pyi (messages), users_pb2_grpc.py and users_pb2_grpc.pyi (stubs
and servicers, typed for asyncio). Needs grpcio-tools and mypy-protobuf where it runs, not where the result is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from sampan.cli.failure import Failure

_SKIPPED: Final = frozenset({"node_modules", "site-packages", "__pycache__", "venv"})
_ENDINGS: Final = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
_HEAD: Final = "# ruff: noqa\n# mypy: ignore-errors\n"  # a type checker reads the .pyi beside it


def proto(arguments: argparse.Namespace) -> int:
    directory = Path(arguments.target)
    if not directory.is_dir():
        raise Failure(f"{directory} is not a directory", 2)
    sources = find(directory)
    if not sources:
        raise Failure(f"no .proto file in {directory}", 2)
    stale = 0
    for path, content in sorted(generate(directory, sources).items()):
        known = path.read_bytes() if path.exists() else None
        if known == content:
            continue
        stale += 1
        if arguments.check:
            print(f"{path} is {'not up to date' if known is not None else 'missing'}")
        else:
            path.write_bytes(content)
            print(f"wrote {path}")
    if arguments.check and stale:
        print(f"write them: sampan proto {directory}")
        return 1
    return 0


def find(directory: Path) -> list[Path]:
    """The .proto files below `directory`, relative to it, sorted; none in hidden directories or environments."""
    found = []
    for here, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        found += [(Path(here) / name).relative_to(directory) for name in files if name.endswith(".proto")]
    return sorted(found)


def generate(directory: Path, sources: list[Path]) -> dict[Path, bytes]:
    """What belongs beside `sources` (relative to their import root `directory`). Failure says what is wrong."""
    tools, plugin = importlib.util.find_spec("grpc_tools"), importlib.util.find_spec("mypy_protobuf")
    if tools is None or tools.origin is None or plugin is None:
        raise Failure("generating needs two packages: pip install grpcio-tools mypy-protobuf", 2)
    common = Path(tools.origin).parent / "_proto"  # google/protobuf/*.proto
    with tempfile.TemporaryDirectory(prefix="sampan-proto-") as folder:
        out = Path(folder)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        done = subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"-I{directory}", f"-I{common}"),
                *(f"--python_out={out}", f"--grpc_python_out={out}"),
                *(f"--mypy_out={out}", f"--mypy_grpc_out=only_async:{out}"),
                *map(str, sources),
            ],
            env={**os.environ, "PATH": path},  # the plugins lie beside this Python
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failure(done.stderr.strip() or f"protoc ended {done.returncode}", 1)
        made = {}
        for source in sources:
            for ending in _ENDINGS:
                relative = source.with_name(source.stem.replace("-", "_") + ending)
                if (produced := out / relative).exists() and (
                    "_grpc" not in ending or "def add_" in produced.read_text()  # a file of messages has no services
                ):
                    made[directory / relative] = _cleaned(produced.read_text())
        return made


def _cleaned(text: str) -> bytes:
    """Without trailing blanks, which hooks would strip again, and without marks for a linter few people run."""
    lines = (line.removesuffix("  # noqa: Y015").rstrip() for line in text.splitlines())
    return (_HEAD + "\n".join(lines).rstrip() + "\n").encode()
