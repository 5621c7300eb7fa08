"""What `up` tells the kubelet of the services it built: one file per image under DIR/images."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sampan.cli.project import Project

KEEP = 10  # images of one service, so that `rollout undo` finds what it goes back to


def register(project: Project, state: Path) -> dict[str, str]:
    """Write the image of every service and job; name -> image. Code is run in place: an older image of an edited
    service names the same directory, and a rollback restores its manifest, not its files."""
    folder = state / "images"
    folder.mkdir(mode=0o700, exist_ok=True)
    images = {}
    application = project.application
    for workload in application.workloads:
        image = f"{application.name}/{workload.name}:{project.fingerprint(workload.name)}"
        images[workload.name] = image
        content = {
            "image": image,
            "entrypoint": [sys.executable, "-m", "sampan"],
            "env": {"PYTHONPATH": _python_path(project.directory), "PYTHONUNBUFFERED": "1"},
            "directory": str(project.directory),
            "python": True,
        }
        path = folder / f"{image.replace('/', '_').replace(':', '_')}.json"
        text = json.dumps(content, indent=1)
        if not path.exists() or path.read_text() != text:
            beside = path.with_suffix(".new")
            beside.write_text(text)
            beside.replace(path)
        else:
            os.utime(path)
        _forget(folder, f"{application.name}_{workload.name}_")
    return images


def _python_path(directory: Path) -> str:
    inherited = os.environ.get("PYTHONPATH", "")
    return f"{directory}{os.pathsep}{inherited}" if inherited else str(directory)


def _forget(folder: Path, prefix: str) -> None:
    files = sorted(folder.glob(f"{prefix}*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files[KEEP:]:
        path.unlink(missing_ok=True)
