"""`sampan down`: stop the cluster of a directory; with --delete, its state goes too."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from sampan.cli.failure import Failure
from sampan.cli.process import ClusterProcess


def down(arguments: argparse.Namespace) -> int:
    process = ClusterProcess(Path(arguments.directory))
    stopped = process.stop()
    if arguments.delete:
        delete(process.directory)
    print("stopped" if stopped else "no cluster runs here", "and deleted" if arguments.delete else "", flush=True)
    return 0


def delete(directory: Path) -> None:
    """Raises Failure rather than delete what is not a cluster's state."""
    if not directory.exists():
        return
    if not any((directory / name).exists() for name in ("cluster.db", "cluster.log", "lock")):
        raise Failure(f"{directory} does not look like the state of a cluster; not deleted", 2)
    shutil.rmtree(directory)
