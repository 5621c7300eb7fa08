"""Entry point of the `sampan` command: arguments, and which module does the work.

Each command's module is imported when it is chosen: `sampan serve` must not pay for what `sampan up` needs.
Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from sampan.cli.failure import Failure
from sampan.imports import uncollected

STATE = ".sampan"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="sampan",
        description="Declare a system once in typed Python; run it here; ship it to any Kubernetes.",
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, help_: str, *, state: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=help_)
        if state:
            made.add_argument("--directory", default=STATE, metavar="DIR", help=f"where state is kept ({STATE})")
        return made

    init = command("init", "Write a small complete project that `sampan up` runs.", state=False)
    init.add_argument("directory", nargs="?", default=".", help="a new or empty directory (.)")

    up = command("up", "Run an application, or YAML manifests, on a cluster of this directory.")
    up.add_argument(
        "target", nargs="?", help="directory of an application, or a YAML file or directory of manifests (.)"
    )
    up.add_argument("--detach", action="store_true", help="leave it running and return once all is Ready")
    up.add_argument("--env", default="dev", metavar="NAME", help="environment of the application (dev)")
    up.add_argument("--json", action="store_true", help="one JSON object per line, for machines")
    up.add_argument("--no-watch", action="store_true", help="do not follow changes of source files")
    up.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for all to be Ready (120)")

    cluster = command("cluster", "Run a cluster with nothing in it.")
    cluster.add_argument("--detach", action="store_true", help="leave it running and return once it is ready")
    cluster.add_argument("--json", action="store_true", help="one JSON object per line, for machines")
    cluster.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for it to be ready (60)")

    for starts in (up, cluster):
        starts.add_argument(
            "--network",
            choices=("auto", "pods", "loopback"),
            default="auto",
            help="pods: each has a network of its own; loopback: they share this machine's; auto (the default): as "
            "this directory's cluster had it last, at first loopback",
        )

    down = command("down", "Stop the cluster of this directory; its state is kept.")
    down.add_argument("target", nargs="?", help="ignored; as for up")
    down.add_argument("--delete", action="store_true", help="delete its state too: objects, databases, everything")

    status = command("status", "Show pods, addresses and the cluster's health.")
    status.add_argument("--json", action="store_true", help="as one JSON object")

    logs = command("logs", "Show the logs of a service's pods, merged.")
    logs.add_argument("name", help="a service, job, workload or pod")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as they are written")
    logs.add_argument("-n", "--namespace", help="where to look (every namespace)")
    logs.add_argument("--tail", type=int, default=200, metavar="LINES", help="of each pod, to begin with (200)")

    compile_ = command("compile", "Compile an application to Kubernetes manifests.", state=False)
    compile_.add_argument("target", nargs="?", default=".", help="directory of the application (.)")
    compile_.add_argument("--env", default="prod", metavar="NAME", help="environment (prod)")
    compile_.add_argument("-o", "--output", metavar="DIR", help="where to write; without it, to the terminal")
    compile_.add_argument("--check", action="store_true", help="write nothing; fail if DIR is not up to date")

    proto = command("proto", "Generate Python from .proto files, beside them.", state=False)
    proto.add_argument("target", nargs="?", default=".", help="directory their imports start from (.)")
    proto.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")

    backup = command("backup", "Write a backup of one database to a file or a bucket.")
    backup.add_argument("name", help="a database of the running system, or one this process is bound to")
    backup.add_argument("--to", default=".", metavar="PLACE", help="a directory, or the URL of a bucket (.)")
    backup.add_argument("--keep", type=int, default=0, metavar="N", help="delete all but the newest N there (keep all)")

    restore = command("restore", "Put a backup in the place of a database, whole or not at all.")
    restore.add_argument("name", help="as for backup")
    restore.add_argument("file", help="a file, or its URL in a bucket")
    restore.add_argument("--replace", action="store_true", help="even where the database is not empty")
    restore.add_argument("--verify", action="store_true", help="only prove it, in a scratch database")

    asyncapi = command("asyncapi", "Print the AsyncAPI 3.0 document of an application's topics.", state=False)
    asyncapi.add_argument("target", nargs="?", default=".", help="directory of the application (.)")
    asyncapi.add_argument("--env", default="dev", metavar="NAME", help="environment, which says the broker (dev)")

    topics = command("topics", "Check that the events of topics changed as they may, or record them.", state=False)
    topics.add_argument("action", choices=("check", "lock"), help="compare with topics.lock.json, or write it")
    topics.add_argument("target", nargs="?", default=".", help="directory of the application (.)")
    topics.add_argument("--accept", action="store_true", help="record changes that break somebody too")

    dead = command("dead-letters", "Events that were set aside: list, show, replay or drop them.")
    dead.add_argument("action", choices=("list", "show", "replay", "drop"))
    dead.add_argument("ids", nargs="*", metavar="ID", help="as `list` shows it, or the beginning of it")
    dead.add_argument("--all", action="store_true", help="every one (of --topic and --group)")
    dead.add_argument("--topic", metavar="NAME", help="of this topic only")
    dead.add_argument("--group", metavar="NAME", help="of this group only")
    dead.add_argument("--target", default=".", metavar="DIR", help="directory of the application (.)")
    dead.add_argument("--json", action="store_true", help="one JSON object per line, for machines")

    for name, help_ in (
        ("serve", "Run one service (in a pod, where SAMPAN_APP names the application)."),
        ("run", "Run one job to its end (in a pod)."),
        ("migrate", "Bring one database to its newest revision (in a pod)."),
    ):
        made = command(name, help_, state=False)
        made.add_argument("name")
        if name == "migrate":
            made.add_argument("--status", action="store_true", help="only say where it stands; 1 when it needs to")
    issuer = command("issuer", "Run the development issuer: tokens for local work, from loopback only.")
    issuer.add_argument("--host", help="a loopback address (127.0.0.1)")
    issuer.add_argument("--port", type=int, help="where to listen, 0 for a free port (9400)")
    issuer.add_argument("--with-cluster", action="store_true", help="end when the cluster of the directory does")

    token = command("token", "Print a token of the development issuer.")
    token.add_argument("--subject", required=True, metavar="NAME", help="who it is of")
    token.add_argument("--scope", action="append", default=[], help="what it may (repeat for more)")
    token.add_argument("--audience", action="append", metavar="NAME", help="whom it is for (sampan)")
    token.add_argument("--seconds", type=int, default=3600, help="how long it is good (3600)")
    token.add_argument("--issuer", metavar="URL", help="whose it is (the one that ran here last)")

    audit = command("audit", "Say whether an audit log is whole, or its first bad line.", state=False)
    audit.add_argument("action", choices=["verify"], help="follow its chain")
    audit.add_argument("file", help="the log; its earlier files are found beside it")
    audit.add_argument("--head", metavar="NUMBER:MAC", help="a head from elsewhere that must lie on the chain")
    audit.add_argument("--key-file", metavar="FILE", help="the key it was sealed with")
    return top


def _up(arguments: argparse.Namespace) -> int:
    from sampan.cli.up import up

    return up(arguments)


def _cluster(arguments: argparse.Namespace) -> int:
    from sampan.cli.up import bare

    return bare(arguments)


def _down(arguments: argparse.Namespace) -> int:
    from sampan.cli.down import down

    return down(arguments)


def _init(arguments: argparse.Namespace) -> int:
    from sampan.cli.init import init

    return init(arguments)


def _status(arguments: argparse.Namespace) -> int:
    from sampan.cli.status import status

    return status(arguments)


def _logs(arguments: argparse.Namespace) -> int:
    from sampan.cli.logs import logs

    return logs(arguments)


def _compile(arguments: argparse.Namespace) -> int:
    from sampan.cli.compiled import compile_

    return compile_(arguments)


def _proto(arguments: argparse.Namespace) -> int:
    from sampan.cli.proto import proto

    return proto(arguments)


def _asyncapi(arguments: argparse.Namespace) -> int:
    from sampan.cli.messages import asyncapi

    return asyncapi(arguments)


def _topics(arguments: argparse.Namespace) -> int:
    from sampan.cli.messages import topics

    return topics(arguments)


def _dead_letters(arguments: argparse.Namespace) -> int:
    from sampan.cli.messages import dead_letters

    return dead_letters(arguments)


def _tell_application() -> None:
    """In a pod SAMPAN_APP says which; elsewhere it is that of this directory."""
    if not os.environ.get("SAMPAN_APP"):
        from sampan.cli import project

        os.environ["SAMPAN_APP"] = project.load(".").reference


def _serve(arguments: argparse.Namespace) -> int:
    _tell_application()
    with uncollected():
        from sampan.service.main import serve

    return serve(arguments.name)


def _run_job(arguments: argparse.Namespace) -> int:
    _tell_application()
    with uncollected():
        from sampan.service.job import run_job

    return run_job(arguments.name)


def _migrate(arguments: argparse.Namespace) -> int:
    _tell_application()
    from sampan.service.migrate import migrate, status

    return status(arguments.name) if arguments.status else migrate(arguments.name)


def _backup(arguments: argparse.Namespace) -> int:
    from sampan.cli.backup import backup

    return backup(arguments)


def _restore(arguments: argparse.Namespace) -> int:
    from sampan.cli.backup import restore

    return restore(arguments)


def _issuer(arguments: argparse.Namespace) -> int:
    from sampan.cli.security import issuer

    return issuer(arguments)


def _token(arguments: argparse.Namespace) -> int:
    from sampan.cli.security import token

    return token(arguments)


def _audit(arguments: argparse.Namespace) -> int:
    from sampan.cli.security import audit

    return audit(arguments)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "up": _up,
    "cluster": _cluster,
    "down": _down,
    "status": _status,
    "logs": _logs,
    "compile": _compile,
    "asyncapi": _asyncapi,
    "topics": _topics,
    "dead-letters": _dead_letters,
    "proto": _proto,
    "serve": _serve,
    "run": _run_job,
    "migrate": _migrate,
    "backup": _backup,
    "restore": _restore,
    "issuer": _issuer,
    "token": _token,
    "audit": _audit,
}


def main(argv: Sequence[str] | None = None) -> int:
    top = parser()
    try:
        arguments = top.parse_args(argv)
    except SystemExit as done:  # argparse has said why
        return int(done.code or 0)
    if arguments.version:
        from sampan import __version__

        print(__version__)
        return 0
    if arguments.command is None:
        top.print_help(sys.stderr)
        return 2
    try:
        return COMMANDS[arguments.command](arguments)
    except Failure as failure:
        print(f"sampan {arguments.command}: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `sampan logs | head`
        sys.stderr.close()
        return 0
