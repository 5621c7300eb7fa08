"""Something to be done when a library is imported, if ever: libraries nobody imports cost nothing."""

from __future__ import annotations

import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

log = logging.getLogger("sampan.telemetry")

Done = Callable[[ModuleType], None]


def when_imported(name: str, then: Done) -> None:
    """Call `then` with the module `name`: now where it is imported, else right after it has been. Never raises."""
    module = sys.modules.get(name)
    if module is not None and getattr(getattr(module, "__spec__", None), "_initializing", False) is False:
        _call(then, module)
        return
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    finder.waiting.setdefault(name, []).append(then)


def forget() -> None:
    """Undo every `when_imported` that has not happened."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def _call(then: Done, module: ModuleType) -> None:
    try:
        then(module)
    except Exception:  # what is added to a library must not break its import
        log.exception("%s cannot be joined", module.__name__)


class _Finder:
    """A meta path finder; not by `importlib.abc`, which imports a dozen modules for the reading of resources."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Done]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        waiting = self.waiting.pop(fullname)
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(fullname, path, target)
            if found is not None:
                if found.loader is not None:
                    found.loader = cast("Loader", _Loader(found.loader, waiting))
                return found
        return None


class _Loader:
    """A library's own loader, and what is to be done after it."""

    def __init__(self, loader: Any, waiting: list[Done]) -> None:
        self._loader, self._waiting = loader, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for then in self._waiting:
            _call(then, module)
