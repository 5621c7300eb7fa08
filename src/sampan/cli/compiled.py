"""`sampan compile`: the application as Kubernetes manifests, written, printed or compared."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sampan.cli import project
from sampan.cli.failure import Failure


def compile_(arguments: argparse.Namespace) -> int:
    from sampan.compile import compile_application
    from sampan.compile.writer import check, dump, write
    from sampan.model.problems import ModelError

    loaded = project.load(arguments.target)
    try:
        objects = compile_application(loaded.application, arguments.env, reference=loaded.reference)
    except ModelError as error:
        raise Failure(str(error), 2) from error
    for problem in loaded.application.problems():
        print(problem, file=sys.stderr)
    if arguments.output is None:
        if arguments.check:
            raise Failure("--check needs -o DIR to compare with", 2)
        print(dump(objects), end="")
        return 0
    directory = Path(arguments.output)
    if arguments.check:
        drifts = check(objects, directory)
        for drift in drifts:
            print(drift)
        return 1 if drifts else 0
    changed = write(objects, directory)
    print(f"{len(objects)} objects in {directory}, {len(changed)} files changed")
    return 0
