"""`sampan up`: a cluster for this directory, the application (or manifests) on it, and a new version on every save."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cli import project
from sampan.cli.failure import Failure
from sampan.cli.process import ClusterProcess
from sampan.cli.view import View, make

if TYPE_CHECKING:
    from sampan.cli.issuing import Issuing
    from sampan.cli.project import Project
    from sampan.kube.client import Client
    from sampan.kube.objects import Object
    from sampan.model import Application

_ENGINES = {"mysql": "mariadb", "postgresql": "postgres"}  # engine -> the known image that runs it

_WITHOUT = {
    "namespaces": "containers are plain processes of this user. Sampan's services and databases work; another program "
    "finds its volumes only by the environment variables and arguments that name their paths, and service names "
    "resolve in Python programs alone (the file $SAMPAN_HOSTS lists them)",
    "bind": "a program that listens on every address takes the port on all pods' addresses; have it listen on $POD_IP",
}


def up(arguments: argparse.Namespace) -> int:
    """The exit code: 0 all Ready (or ended by Ctrl-C after it was), 1 not Ready in time, 2 bad input."""
    target = Path(arguments.target or ".")
    if not target.exists():
        raise Failure(f"{target} does not exist", 2)
    if arguments.target is None and not project.has_application(target):
        return _Up(arguments, None, []).run()
    if target.is_file() or not project.has_application(target):
        if target.is_dir() and not any(target.rglob("*.y*ml")):
            project.load(str(target))  # says what is missing
        return _Up(arguments, None, project.manifests(target)).run()
    return _Up(arguments, target, []).run()


def bare(arguments: argparse.Namespace) -> int:
    """`sampan cluster`."""
    arguments.no_watch = True
    return _Up(arguments, None, []).run()


class _Up:
    """One run. `target` is the directory of an application; without it, `objects` (perhaps none) are applied."""

    def __init__(self, arguments: argparse.Namespace, target: Path | None, objects: list[Object]) -> None:
        self._arguments = arguments
        self._target = target
        self._objects = objects
        self._namespace = "default"
        self._project: Project | None = None
        self._view: View = make(as_json=arguments.json)
        self._process = ClusterProcess(Path(arguments.directory))
        self._began = time.monotonic()
        self._ours = False
        self._issuing: Issuing | None = None
        self._told: set[tuple[str, str]] = set()  # containers whose failure was said: uid of the pod, name
        self._prints: dict[str, str] = {}  # of the sources, as last seen
        self._updating: asyncio.Task[bool]  # to the version that was saved last

    def _say_other_network(self, info: dict[str, Any]) -> None:
        """A running cluster keeps the mode it was started with, whatever is asked for now."""
        asked, used = self._arguments.network, info.get("network", {}).get("mode")
        if not self._ours and used and asked not in ("auto", used):
            self._view.say(f"the cluster runs with --network {used}; for {asked}: sampan down, then start it again")

    def run(self) -> int:
        detach = self._arguments.detach
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._ours = self._process.start(
                die_with_us=not detach, network=self._arguments.network, warm=self._target is not None
            )
            if self._target is not None:
                self._project = project.load(str(self._target))
                self._compile()
            info = self._process.wait_ready(min(self._arguments.timeout, 60.0))
            self._say_other_network(info)
            self._view.say(
                f"cluster {'ready' if self._ours else 'running'} at {info['server']} ({self._seconds()})",
                event="cluster",
                **info,
            )
            return asyncio.run(self._bring_up(info))
        except KeyboardInterrupt:
            self._view.close()
            if detach and not self._ours:
                return 130
            self._stop("interrupted")
            return 130
        except Failure as failure:
            self._view.close()
            # Bad input must not leave a cluster behind; what is not Ready may be looked at.
            if self._ours and (failure.code == 2 or not detach):
                self._process.stop()
            if self._arguments.json:
                self._view.say(str(failure), event="failed", code=failure.code)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:.2f} s"

    def _stop(self, why: str) -> None:
        self._view.say(
            f"{why}: stopping pods and cluster; state is kept in {self._process.directory}", event="stopping"
        )
        # a second Ctrl-C goes to nobody while pods finish what they hold
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._process.stop()
        self._view.say("stopped", event="stopped")

    # -- the application -------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        from sampan.cli import images
        from sampan.compile import Backing, compile_application, namespace_of
        from sampan.model.problems import ModelError

        assert self._project is not None
        application, environment = self._project.application, self._arguments.env
        try:
            application.validate()
            self._backing = Backing(
                engines=_engines(self._process.directory, application), issuer=self._start_issuer(application)
            )
            self._prints = self._project.fingerprints()
            named = images.register(self._project, self._process.directory)
            self._objects = compile_application(
                application,
                environment,
                images=named.__getitem__,
                backing=self._backing,
                reference=self._project.reference,
            )
            self._namespace = namespace_of(application, environment)
        except ModelError as error:
            raise Failure(str(error), 2) from error
        for problem in application.problems():
            self._view.say(str(problem), event="warning")
        wanted = {database.engine for database in application.databases} & _ENGINES.keys()
        for engine in sorted(wanted - self._backing.engines):
            self._view.say(
                f"{engine} is not on this machine: its databases are SQLite files here ({_how_to_install(engine)})",
                event="substitute",
                engine=engine,
            )

    def _start_issuer(self, application: Application) -> str:
        """The development issuer's URL, "" where nobody here believes it. It starts beside the cluster."""
        from sampan.compile.identity import trusts_developers

        local = application.environment(self._arguments.env).is_local
        believers = [service for service in application.services if trusts_developers(service, local)]
        if not believers:
            return ""
        from sampan.cli.issuing import Issuing

        self._issuing = self._issuing or Issuing(self._process)
        self._issuing.believers = believers
        return self._issuing.start()

    async def _bring_up(self, info: dict[str, Any]) -> int:
        from sampan.kube.client import Client
        from sampan.kube.errors import ApiError
        from sampan.kube.https import HttpsTransport

        loop = asyncio.get_running_loop()
        client = Client(HttpsTransport.from_kubeconfig(self._process.kubeconfig))
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        watching = self._project is not None and not (self._arguments.no_watch or self._arguments.detach)
        self._updating = asyncio.create_task(self._deploy(client))
        beside = [asyncio.create_task(self._follow_sources(client))] if watching else []
        try:
            await self._first(beside)
            self._addresses(info)
            if self._arguments.detach:
                return 0
            await self._stay(beside)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except ApiError as error:
            raise Failure(f"the cluster refused: {error}") from error
        except OSError as error:
            raise Failure(f"lost the cluster: {error}\n{self._process.log_end()}") from error
        finally:
            for task in (self._updating, *beside):
                task.cancel()
            await asyncio.gather(self._updating, *beside, return_exceptions=True)
            await client.transport.close()
        return 0

    async def _deploy(self, client: Client) -> bool:
        """True when all is Ready. Raises Failure when it is not in time."""
        from sampan.cli import deploy

        if not self._objects:
            return True
        began = time.monotonic()
        if self._project is not None:
            first = [obj for obj in self._objects if obj["kind"] == "Namespace"]
            await deploy.apply(client, first)
            await self._create_secrets(client)
        if self._issuing is not None:
            await asyncio.to_thread(self._issuing.wait)
        await deploy.apply(client, await deploy.keep_scale(client, self._objects), self._namespace)
        if self._project is not None:
            for gone in await deploy.prune(client, self._project.application.name, self._namespace, self._objects):
                self._view.say(f"removed {gone}", event="removed", object=gone)
        self._view.say(f"{len(self._objects)} objects applied ({time.monotonic() - began:.2f} s)", event="applied")
        started = self._process.info().get("started") if self._ours else None
        watcher = deploy.Watcher(client, self._view, self._objects, self._namespace, started, told=self._told)
        try:
            await watcher.until_ready(self._arguments.timeout)
        finally:
            self._view.close()
        self._view.say(f"all Ready ({self._seconds()})", event="ready")
        return True

    async def _create_secrets(self, client: Client) -> None:
        """Once: a password is kept, for the data behind it knows it."""
        from sampan.compile import local_certificates, local_secrets
        from sampan.kube import kinds
        from sampan.kube.authority import Authority
        from sampan.kube.errors import ApiError

        assert self._project is not None
        existing = {obj["metadata"]["name"]: obj for obj in (await client.list(kinds.SECRET, self._namespace)).items}
        of = (self._project.application, self._arguments.env)
        for secret in (
            *local_secrets(*of, backing=self._backing, existing=existing),
            *local_certificates(*of, authority=Authority, existing=existing),
        ):
            try:
                await client.create(kinds.SECRET, secret)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise Failure(f"Secret {secret['metadata']['name']}: {error}") from error

    def _addresses(self, info: dict[str, Any]) -> None:
        routes = sorted(
            (rule.get("host") or "", path.get("path") or "/")
            for obj in self._objects
            if obj["kind"] == "Ingress"
            for rule in obj["spec"].get("rules") or ()
            for path in (rule.get("http") or {}).get("paths") or ()
        )
        ingress = str(info.get("ingress", "")).rstrip("/")
        if self._issuing is not None:
            for line in self._issuing.words():
                self._view.say(f"  {line}", event="issuer", url=self._issuing.url)
        for host, path in routes:
            self._view.say(
                f"  {ingress}{path}" + (f"  (host {host})" if host else ""),
                event="route",
                url=ingress + path,
                host=host,
            )
        for part, state in (self._process.info().get("isolation") or {}).items():
            if state != "in force":
                text = f"not in force here: {part} ({state}): {_WITHOUT.get(part, '')}"
                self._view.say(f"  {text}", event="isolation", part=part, reason=state)
        kubeconfig = self._process.kubeconfig
        self._view.say(
            f"  export KUBECONFIG={kubeconfig}    # then: kubectl get pods -A", event="kubeconfig", path=str(kubeconfig)
        )

    # -- the foreground --------------------------------------------------------------------------------------------

    async def _first(self, beside: list[asyncio.Task[None]]) -> None:
        """Until a version is Ready: the first, or one that was saved meanwhile. Raises Failure when the first is not in
        time."""
        while True:
            version = self._updating
            await asyncio.wait({version, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()
            if version.done() and not version.cancelled() and version.result():
                return
            if version.done():
                await asyncio.sleep(0.05)  # for the next version

    async def _stay(self, beside: list[asyncio.Task[None]]) -> None:
        """Until interrupted. Raises Failure when the cluster ends."""
        self._view.say("Ctrl-C stops it" + ("; saving a source file rolls its service" if beside else ""), event="up")
        ending = asyncio.create_task(self._until_ended())
        try:
            done, _ = await asyncio.wait({ending, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _until_ended(self) -> None:
        while self._process.pid() is not None:  # noqa: ASYNC110 (a lock has no event)
            await asyncio.sleep(0.25)
        raise Failure(f"the cluster ended:\n{self._process.log_end()}")

    async def _follow_sources(self, client: Client) -> None:
        """A new version for each change of what images are made of; other files may be written here, such as our own
        output. What is saved next does not wait until this one is Ready, or never will be."""
        from watchfiles import DefaultFilter, awatch

        assert self._project is not None
        ignored = sorted({*DefaultFilter.ignore_dirs, *project.IGNORED})
        directory = self._project.directory
        async for changes in awatch(directory, watch_filter=DefaultFilter(ignore_dirs=ignored), debounce=300, step=50):
            prints = self._project.fingerprints()
            if prints and prints == self._prints:
                continue
            self._prints = prints
            self._updating.cancel()
            await asyncio.wait({self._updating})
            sources = {str(path) for path in self._project.sources()}
            names = sorted({os.path.relpath(path, directory) for _, path in changes if path in sources})
            self._view.say(f"changed: {', '.join(names[:5]) or 'the sources'}", event="changed")
            self._updating = asyncio.create_task(self._update(client))

    async def _update(self, client: Client) -> bool:
        """Whether the sources as they are now run, and are Ready."""
        from sampan.kube.errors import ApiError

        try:
            self._reload()
            return await self._deploy(client)
        except (Failure, ApiError, OSError) as failure:
            self._view.say(f"not updated: {failure}", event="failed")  # the version before goes on running
            return False

    def _reload(self) -> None:
        """Load the application anew: modules of the project are forgotten first."""
        assert self._target is not None
        assert self._project is not None
        directory = str(self._project.directory)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(directory + os.sep):
                del sys.modules[name]
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)
        import importlib

        importlib.invalidate_caches()
        self._began = time.monotonic()
        self._project = project.load(str(self._target))
        self._compile()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _engines(directory: Path, application: Application) -> frozenset[str]:
    """The database servers to run: what this machine had at the first `up` here, since the data lies with them.

    Raises Failure when one of them is gone: its databases cannot be opened by another engine.
    """
    from sampan.cluster.kubelet import known_images

    rows = {engine: known_images.BY_NAME.get(image) for engine, image in _ENGINES.items()}
    found = {engine for engine, row in rows.items() if row and known_images.find_program(row)}
    record = directory / "engines.json"
    chosen: dict[str, bool] = json.loads(record.read_text()) if record.exists() else {}
    for engine in {database.engine for database in application.databases} & _ENGINES.keys():
        if chosen.setdefault(engine, engine in found) and engine not in found:
            raise Failure(
                f"the {engine} databases in {directory} need their server, which is not on this machine any more: "
                f"{_how_to_install(engine)}, or start anew with `sampan down --delete`",
                2,
            )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = record.with_name(".engines.json.new")
    beside.write_text(json.dumps(chosen, sort_keys=True))
    beside.replace(record)
    return frozenset(engine for engine in found if chosen.get(engine, True))


def _how_to_install(engine: str) -> str:
    from sampan.cluster.kubelet import known_images

    row = known_images.BY_NAME.get(_ENGINES[engine])
    return row.install if row else ""
