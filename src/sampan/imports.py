"""Keeping start-up short: what libraries need not import, what importing need not do, and what is done only when a
library is imported, if ever. Of the standard library."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

Done = Callable[[ModuleType], None]
Around = Callable[[ModuleType], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """What this thread imports inside meets these modules as not installed, unless they are loaded already.

    Only for libraries to which a module is optional, and where what they use it for is not used here.
    """
    hidden = _Hidden(names)
    sys.meta_path.insert(0, hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(hidden)


class _Hidden:
    """A meta path finder that finds nothing of `names`, and lets nobody look further."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self._thread = names, threading.get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """What is made inside is not looked through for garbage, then or later: it is modules, classes and tables, which
    stay. Looking through them again and again is a ninth of the start-up of a service."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def courteous() -> Iterator[None]:
    """While a thread imports inside, the others wait for it half a millisecond at a time, not Python's usual five:
    a request takes several turns of the event loop, and each would wait."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def when_imported(name: str, then: Done) -> None:
    """Call `then` with the module `name`: now where it is imported, else right after it has been. Never raises."""
    module = sys.modules.get(name)
    if module is not None and getattr(getattr(module, "__spec__", None), "_initializing", False) is False:
        _call(then, module)
        return

    @contextlib.contextmanager
    def after(module: ModuleType) -> Iterator[None]:
        yield
        _call(then, module)

    while_imported(name, after)


def while_imported(name: str, around: Around) -> None:
    """Run the module `name`, when it is imported, inside the context `around` makes of it. Nothing happens where it is
    imported already."""
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Awaited)), None)
    if finder is None:
        finder = _Awaited()
        sys.meta_path.insert(0, finder)
    finder.waiting.setdefault(name, []).append(around)


def forget() -> None:
    """Undo every `when_imported` and `while_imported` that has not happened."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Awaited)]


def _call(then: Done, module: ModuleType) -> None:
    try:
        then(module)
    except Exception:  # what is added to a library must not break its import
        import logging

        logging.getLogger("sampan").exception("%s cannot be joined", module.__name__)


class _Awaited:
    """A meta path finder; not by `importlib.abc`, which imports a dozen modules for the reading of resources."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Around]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        waiting = self.waiting.pop(fullname)
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(fullname, path, target)
            if found is not None:
                if found.loader is not None:
                    found.loader = cast("Loader", _Wrapped(found.loader, waiting))
                return found
        return None


class _Wrapped:
    """A library's own loader, and what is to be done around it."""

    def __init__(self, loader: Any, waiting: list[Around]) -> None:
        self._loader, self._waiting = loader, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with contextlib.ExitStack() as stack:
            for around in reversed(self._waiting):  # what was asked for first is done first, afterwards
                stack.enter_context(around(module))
            self._loader.exec_module(module)
