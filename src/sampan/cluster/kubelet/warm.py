"""Running a Python program inside a fork of the zygote: no exec, no start-up, the common libraries already there."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path

from sampan.cluster.kubelet import names

_IGNORED_FLAGS = {"-u", "-B", "-I", "-s", "-E"}


def plan(argv: list[str], env: dict[str, str]) -> list[str] | None:
    """`argv` as a warm program: ["-m", module, ...], ["-c", code, ...] or [script, ...]; None if it must be exec'ed.

    Warm are this very interpreter with -m, -c or a script, and scripts whose first line names it (`sampan`, `uvicorn`).
    """
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        return None
    if _is_this_python(program):
        rest = argv[1:]
        while rest and rest[0] in _IGNORED_FLAGS:
            rest = rest[1:]
        if not rest or (rest[0].startswith("-") and rest[0] not in ("-m", "-c")):
            return None
        return rest if not rest[0].startswith("-") or len(rest) > 1 else None
    try:
        with Path(program).open("rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    if first.startswith(b"#!") and _is_this_python(first[2:].decode(errors="replace").strip()):
        return [program, *argv[1:]]
    return None


def _is_this_python(program: str) -> bool:
    # A virtual environment's python is a symlink: the directory it lies in decides which libraries it finds.
    path = Path(program)
    return path.name.startswith("python") and path.parent == Path(sys.executable).parent


def run(program: list[str]) -> None:
    """Run a warm program as `__main__`. Environment and working directory are set; raises what the program raises."""
    for folder in reversed((os.environ.get("PYTHONPATH") or "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    sys.path_importer_cache.clear()
    if hosts := os.environ.get("SAMPAN_HOSTS"):
        names.install(hosts)
    if program[0] == "-m":
        sys.argv = ["-m", *program[2:]]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    elif program[0] == "-c":
        sys.argv = ["-c", *program[2:]]
        sys.path.insert(0, "")
        exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102
    else:
        sys.argv = list(program)
        sys.path.insert(0, str(Path(program[0]).resolve().parent))
        runpy.run_path(program[0], run_name="__main__")
