"""`sampan dead-letters`, `sampan topics`, `sampan asyncapi`: what there is to know and do about topics."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cli import project
from sampan.cli.failure import Failure

if TYPE_CHECKING:
    from sampan.model import Application
    from sampan.service.messaging.port import Broker, DeadLetter

_VARIABLE = "SAMPAN_MESSAGING_URI"
_CONNECT_SECONDS = 10.0


def asyncapi(arguments: argparse.Namespace) -> int:
    from sampan.model.problems import ModelError
    from sampan.service.messaging.asyncapi import document

    application = project.load(arguments.target).application
    try:
        made = document(application, application.environment(arguments.env))
    except ModelError as error:
        raise Failure(str(error), 2) from error
    print(json.dumps(made, indent=2))
    return 0


def topics(arguments: argparse.Namespace) -> int:
    """`check` compares with the lock file, `lock` records what is."""
    from sampan.service.messaging import evolution

    loaded = project.load(arguments.target)
    path = loaded.directory / evolution.LOCK
    try:
        old = evolution.load(path)
    except ValueError as error:
        raise Failure(str(error), 2) from error
    new = evolution.current(loaded.application)
    if old is None and arguments.action == "check":
        raise Failure(f"there is no {path} to compare with; `sampan topics lock` makes it", 2)
    known = old.topics if old is not None else {}
    breaking = 0
    for name, topic in new.topics.items():
        found = evolution.changes(known[name], topic) if name in known else []
        breaking += len(found)
        for change in found:
            print(f"topic {name}: {change}")
        if not found and name in known and known[name] != topic:
            print(f"topic {name}: changed, and nobody breaks")
        elif name not in known:
            print(f"topic {name}: new")
    for name in known.keys() - new.topics.keys():
        print(f"topic {name}: gone; nobody reads its stored events any more")
    if arguments.action == "lock":
        if breaking and not arguments.accept:
            raise Failure(f"{path} is left as it was; --accept records these changes all the same")
        evolution.save(path, new)
        print(f"{len(new.topics)} topics recorded in {path}")
        return 0
    return 1 if breaking else 0


def dead_letters(arguments: argparse.Namespace) -> int:
    application = project.load(arguments.target).application
    return asyncio.run(_dead_letters(arguments, application))


async def _dead_letters(arguments: argparse.Namespace, application: Application) -> int:
    from sampan.service.messaging.letters import replay

    async with _connected(arguments, application) as broker:
        letters = await _find(broker, arguments)
        if arguments.action == "list":
            for letter in letters:
                print(json.dumps(_summary(letter)) if arguments.json else _line(letter))
            if not letters and not arguments.json:
                print("no dead letters", file=sys.stderr)
            return 0
        chosen = _chosen(letters, arguments)
        for letter in chosen:
            if arguments.action == "show":
                print(
                    json.dumps({**_summary(letter), "headers": letter.headers, "payload": _payload(letter)}, indent=2)
                )
                continue
            if arguments.action == "replay":
                await replay(broker, letter)
            else:
                await broker.drop(letter)
            print(f"{'replayed' if arguments.action == 'replay' else 'dropped'} {letter.id}")
    return 0


async def _find(broker: Broker, arguments: argparse.Namespace) -> list[DeadLetter]:
    return [
        letter
        for layout in list(broker.layouts.values())
        for group in layout.groups
        if arguments.topic in (None, layout.name) and arguments.group in (None, group)
        for letter in await broker.dead_letters(layout.name, group)
    ]


def _chosen(letters: list[DeadLetter], arguments: argparse.Namespace) -> list[DeadLetter]:
    if arguments.all:
        return letters
    if not arguments.ids:
        raise Failure(f"name the letters to {arguments.action} by the ids that `list` shows, or give --all", 2)
    found = []
    for wanted in arguments.ids:
        matching = [letter for letter in letters if letter.id.startswith(wanted)]
        if len(matching) != 1:
            raise Failure(f"{'no' if not matching else len(matching)} dead letters begin with {wanted!r}")
        found += matching
    return found


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "group": letter.group,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.at)),
        "attempts": letter.attempts,
        "error": letter.error,
        "key": letter.key,
    }


def _line(letter: DeadLetter) -> str:
    about = _summary(letter)
    return f"{about['id']}  {about['at']}  {letter.topic} -> {letter.group}  {letter.attempts} tries  {letter.error}"


def _payload(letter: DeadLetter) -> Any:
    try:
        return json.loads(letter.payload)
    except ValueError:
        return letter.payload.decode("utf-8", "replace")


@asynccontextmanager
async def _connected(arguments: argparse.Namespace, application: Application) -> AsyncIterator[Broker]:
    from sampan.service.bindings import Binding, BindingError
    from sampan.service.messaging.binding import layout
    from sampan.service.messaging.evolution import topics_of
    from sampan.service.messaging.port import open_broker
    from sampan.service.telemetry.metrics import Registry

    uri = os.environ.get(_VARIABLE) or await _local_uri(Path(arguments.directory), application)
    try:
        broker = open_broker(Binding("messaging", uri.partition(":")[0], uri), Registry(), "sampan dead-letters")
    except BindingError as error:
        raise Failure(str(error), 2) from error
    for topic in topics_of(application):
        broker.declare(layout(topic, application.workloads))
    broker.start()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await broker.ready()
        yield broker
    except TimeoutError:
        place = uri.rpartition("@")[2].partition("?")[0]
        raise Failure(f"no broker answered at {place} within {_CONNECT_SECONDS:g} s") from None
    except broker.errors as error:
        raise Failure(f"the broker refused: {type(error).__name__}: {error}") from error
    finally:
        await broker.close()


async def _local_uri(directory: Path, application: Application) -> str:
    """Where the broker of the system running here is: its address in the cluster, its binding's user and password."""
    from sampan.cli.process import ClusterProcess
    from sampan.kube import kinds
    from sampan.kube.client import Client
    from sampan.kube.errors import ApiError
    from sampan.kube.https import HttpsTransport

    process = ClusterProcess(directory)
    if process.pid() is None:
        raise Failure(f"no system runs in {process.directory}; start it (sampan up), or set {_VARIABLE}", 2)
    namespace = application.environment("dev").namespace or application.name
    client = Client(HttpsTransport.from_kubeconfig(process.kubeconfig))
    try:
        service = await client.get(kinds.SERVICE, "messaging", namespace)
        secret = await client.get(kinds.SECRET, "binding-messaging", namespace)
    except ApiError as error:
        raise Failure(f"the system in {process.directory} has no broker: {error}") from error
    finally:
        await client.transport.close()
    uri = b64decode(secret["data"]["uri"]).decode()
    return uri.replace("//messaging:", f"//{service['spec']['clusterIP']}:").replace(
        "@messaging:", f"@{service['spec']['clusterIP']}:"
    )
