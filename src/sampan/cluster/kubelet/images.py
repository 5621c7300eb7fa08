"""From an image name to something this machine can run: images built here first, then known images."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import msgspec

from sampan.cluster.kubelet import known_images

ALIASES = {
    "valkey-server": ("redis-server",),
    "redis-server": ("valkey-server",),
    "mariadbd": ("mysqld",),
    "mysqld": ("mariadbd",),
}
"""Names under which commands call a program that stands in for theirs."""


class ImageError(Exception):
    """The image cannot be run here; the message says what to do."""


class Image(msgspec.Struct, frozen=True):
    """A runnable image. `entrypoint` and `arguments` as ENTRYPOINT and CMD; `bind` see `KnownImage`."""

    image: str
    entrypoint: list[str] = []
    arguments: list[str] = msgspec.field(default_factory=list, name="cmd")
    env: dict[str, str] = {}
    directory: str = "/"
    python: bool = False
    bind: list[str] = []
    volumes: list[str] = []
    known: bool = False

    @property
    def identity(self) -> str:
        """The imageID of container statuses: a digest of what would be run."""
        return f"sampan://{self.image}@sha256:{hashlib.sha256(msgspec.json.encode(self)).hexdigest()}"

    def argv(self, command: list[str], args: list[str], ip: str) -> list[str]:
        """The full command line; `command` replaces the entrypoint, `args` the arguments, as in a pod."""
        if command:
            if self.entrypoint and Path(command[0]).name in self._aliases:
                return self._bound(self.entrypoint + command[1:] + args, ip)
            return command + args
        words = self.entrypoint + (args or self.arguments)
        # `args: ["redis-server", "--x"]` names the program again, as images' entry scripts allow.
        if args and self.entrypoint and Path(args[0]).name in self._aliases:
            words = self.entrypoint + args[1:]
        return self._bound(words, ip)

    @property
    def _aliases(self) -> set[str]:
        name = Path(self.entrypoint[-1]).name
        return {name, *ALIASES.get(name, ())}

    def _bound(self, words: list[str], ip: str) -> list[str]:
        if not self.bind or self.bind[0] in words:
            return words
        return words + [word.replace("{ip}", ip) for word in self.bind]


class Images:
    """Resolves image names. Image files are read again when their directory or they change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._built: dict[str, Image] = {}
        self._stamp: tuple[tuple[str, int], ...] | None = None

    def resolve(self, name: str) -> Image:
        """Raises ImageError."""
        self._reload()
        built = self._built.get(name)
        if built is not None:
            return built
        row = known_images.BY_NAME.get(known_images.repository(name))
        if row is None:
            raise ImageError(
                f'image "{name}" is not among the images built here and not a known one; nothing is downloaded. '
                f"Build it (`sampan up` does, for your services), or write {self.directory}/NAME.json with "
                '{"image": "' + name + '", "entrypoint": ["/path/to/program"]}. '
                f"Known images: {', '.join(sorted(known_images.BY_NAME))}"
            )
        program = known_images.find_program(row)
        if program is None:
            names = ", ".join(p.rpartition(":")[2] for p in row.programs)
            raise ImageError(f'image "{name}" needs a program of this machine ({names}), not found: {row.install}')
        fill = [word.replace("{program}", program) for word in row.entrypoint]
        return Image(
            image=name,
            entrypoint=fill,
            arguments=[word.replace("{program}", program) for word in row.arguments],
            env={"PATH": default_path(), **row.env},
            python=row.warm,
            bind=list(row.bind),
            volumes=list(row.volumes),
            directory=row.directory,
            known=True,
        )

    def _reload(self) -> None:
        try:
            with os.scandir(self.directory) as entries:
                stamp = tuple(sorted((e.path, e.stat().st_mtime_ns) for e in entries if e.name.endswith(".json")))
        except OSError:
            stamp = ()
        if stamp == self._stamp:
            return
        built = {}
        for path, _ in stamp:
            try:
                image = msgspec.json.decode(Path(path).read_bytes(), type=Image)
            except (OSError, msgspec.MsgspecError):
                continue  # being written, or not an image file: its pods say ErrImagePull
            built[image.image] = msgspec.structs.replace(image, env={"PATH": default_path(), **image.env})
        self._built, self._stamp = built, stamp


def default_path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
