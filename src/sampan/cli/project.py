"""From what was typed after `up` or `compile` to an Application or a list of manifests."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cli.failure import Failure

if TYPE_CHECKING:
    from sampan.kube.objects import Object
    from sampan.model import Application

# What lies beside the sources and is none: never part of an image's fingerprint, never watched.
IGNORED = frozenset({"__pycache__", "node_modules", ".git", ".venv", ".sampan", ".mypy_cache", ".pytest_cache"})


class Project:
    """An Application and where it lives. `reference` is "module:attribute"."""

    def __init__(self, directory: Path, reference: str, application: Application) -> None:
        self.directory = directory
        self.reference = reference
        self.application = application

    def sources_of(self, name: str) -> list[Path]:
        """The files whose change makes another image of the service or job `name`."""
        from sampan.model.sources import local_source_files

        found: set[Path] = set()
        folders: set[Path] = set()
        for string in self._imports_of(name):
            files = local_source_files(string, self.directory)
            found.update(files)
            own = self.directory.joinpath(*string.partition(":")[0].split("."))
            folder = own if own.is_dir() else own.parent
            if string != self.reference and folder != self.directory:
                folders.add(folder.resolve())
        for folder in folders:  # templates, static files, migrations
            found.update(
                path
                for path in folder.rglob("*")
                if path.is_file() and path.suffix not in {".py", ".pyc"} and not IGNORED.intersection(path.parts)
            )
        for database in self.application.databases:
            if database.migrations:
                found.update((self.directory / database.migrations).rglob("*.py"))
        manifest = self.directory / "pyproject.toml"
        return sorted(found | ({manifest} if manifest.exists() else set()))

    def _imports_of(self, name: str) -> list[str]:
        application = self.application
        strings = [self.reference]
        for service in application.services:
            if service.name == name:
                strings += [service.asgi] if service.asgi else []
                strings += [service.grpc.services] if service.grpc else []
                strings += [
                    one if isinstance(one, str) else one.run for one in (*service.background, *service.readiness_checks)
                ]
                strings += [handler for grant in service.grants if (handler := getattr(grant, "handler", None))]
        strings += [job.run for job in application.jobs if job.name == name]
        return strings

    def fingerprint(self, name: str) -> str:
        """The tag of its image: changes when a file it is made of does."""
        digest = hashlib.sha256(sys.version.encode())
        for path in self.sources_of(name):
            digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:12]

    def sources(self) -> set[Path]:
        """Those of all services and jobs."""
        return {path for workload in self.application.workloads for path in self.sources_of(workload.name)}

    def fingerprints(self) -> dict[str, str]:
        """That of each service and job. Empty while a file is being replaced."""
        try:
            return {workload.name: self.fingerprint(workload.name) for workload in self.application.workloads}
        except OSError:
            return {}


def load(target: str) -> Project:
    """The Application of a directory; of this one (".") it is that of SAMPAN_APP, where that is set, as in a pod.

    Raises Failure (2) saying what is missing.
    """
    directory = Path(target).resolve()
    if not directory.is_dir():
        raise Failure(f"{target} is not a directory", 2)
    told = os.environ.get("SAMPAN_APP", "") if target == "." else ""
    reference = told or _stated(directory)
    sys.path.insert(0, str(directory))
    if reference:
        module, _, attribute = reference.partition(":")
        application = getattr(_import(module, directory), attribute or "app", None)
        if application is None or not _is_application(application):
            said = (
                f"SAMPAN_APP={told}" if told else f"{directory / 'pyproject.toml'}: [tool.sampan] app = {reference!r}"
            )
            raise Failure(f"{said} is not an Application", 2)
        return Project(directory, reference, application)
    return _search(directory, target)


def has_application(directory: Path) -> bool:
    return bool(_stated(directory)) or bool(_candidates(directory))


def _stated(directory: Path) -> str:
    manifest = directory / "pyproject.toml"
    if not manifest.exists():
        return ""
    try:
        document = tomllib.loads(manifest.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{manifest}: {error}", 2) from error
    return str(document.get("tool", {}).get("sampan", {}).get("app", ""))


def _candidates(directory: Path) -> list[Path]:
    return [path for path in (directory / "system.py", *sorted(directory.glob("*/system.py"))) if path.is_file()]


def _search(directory: Path, target: str) -> Project:
    candidates = _candidates(directory)
    if not candidates:
        raise Failure(
            f'no application in {target}: name it in pyproject.toml as [tool.sampan] app = "module:attribute", '
            "or declare it in system.py; `sampan init` writes an example",
            2,
        )
    found: list[Project] = []
    for path in candidates:
        name = ".".join(path.relative_to(directory).with_suffix("").parts)
        module = _import(name, directory)
        found += [
            Project(directory, f"{name}:{attribute}", value)
            for attribute, value in vars(module).items()
            if _is_application(value)
        ]
    if len(found) != 1:
        names = ", ".join(project.reference for project in found) or "none"
        raise Failure(f"{target} must hold exactly one Application, found {names}; choose in [tool.sampan] app", 2)
    return found[0]


def _import(name: str, directory: Path) -> Any:
    from sampan.model.problems import ModelError

    try:
        return importlib.import_module(name)
    except ModelError as error:
        raise Failure(str(error), 2) from error
    except Exception as error:
        # only the frames of the user's own files: ours and importlib's say nothing to him
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(directory))]
        where = "".join(traceback.format_list(frames))
        text = "".join(traceback.format_exception_only(error)).strip()
        if hint := _meant(error, frames[-1:]):
            text += f"\n   = {hint}"
        raise Failure(f"cannot import {name} from {directory}\n{where}{text}", 2) from error


def _meant(error: Exception, frames: list[traceback.FrameSummary]) -> str:
    """Of an argument that a declaration does not have: the one that was meant, or those there are."""
    word = re.search(r"unexpected keyword argument '(\w+)'", str(error), re.IGNORECASE)
    if word is None or not frames:
        return ""
    import inspect

    import sampan
    from sampan.model.validate import nearest

    frame = frames[0]
    line = Path(frame.filename).read_bytes().splitlines()[(frame.lineno or 1) - 1]
    called = re.match(rb"(?:\w+\.)*(\w+)\s*\(", line[frame.colno or 0 :])  # the column counts bytes
    declares = getattr(sampan, called[1].decode(), None) if called else None
    if declares is None:
        return ""
    known = [name for name in inspect.signature(declares).parameters if name not in ("self", "location")]
    return f"{declares.__name__}: {nearest(word[1], known)}"


def _is_application(value: Any) -> bool:
    from sampan.model import Application

    return isinstance(value, Application)


def manifests(target: Path) -> list[Object]:
    """The objects of a YAML or JSON file, or of all such files in a directory. Raises Failure (2)."""
    import yaml

    files = [target]
    if target.is_dir():
        files = sorted(path for path in target.rglob("*") if path.suffix in {".yaml", ".yml", ".json"})
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    objects: list[Object] = []
    for path in files:
        try:
            documents = list(yaml.load_all(path.read_bytes(), Loader=loader))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise Failure(f"{path}: {error}", 2) from error
        for document in documents:
            if document is None:
                continue
            parts = (
                document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
            )
            for obj in parts or ():
                if not isinstance(obj, dict) or not obj.get("kind") or not obj.get("apiVersion"):
                    raise Failure(f"{path}: not a Kubernetes object: apiVersion and kind are needed", 2)
                if not (obj.get("metadata") or {}).get("name"):
                    raise Failure(f"{path}: {obj['kind']} without metadata.name", 2)
                objects.append(obj)
    if not objects:
        raise Failure(f"no manifests in {target}", 2)
    return objects
