"""The zygote process: forks a supervisor for every container start, and has the common libraries imported for them.

The imports begin when it is told to, or with the first container: a cluster without pods does not keep them in memory.

Runs as `python -m sampan.cluster.kubelet.nursery FD`; lives until the other end of FD closes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

import msgspec

from sampan.cluster.kubelet import cgroups, linux, wire
from sampan.cluster.kubelet.supervisor import ContainerSpec, Program, run, supervise


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    linux.set_name("sampan-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors report over their own channels
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the cluster, which then stops its pods in order
    program = _serve(control, sys.argv[2:])
    run(program)


def _serve(control: socket.socket, libraries: list[str]) -> Program:
    """Import and serve, requests first. Returns only in a container."""
    waiting: list[str] = []
    asleep = list(libraries)
    patient: list[tuple[dict[str, Any], list[int]]] = []
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        if waiting and not poller.poll(0):
            with contextlib.suppress(Exception):  # a library that is not there is simply not warm
                importlib.import_module(waiting.pop(0))
            if not waiting:
                gc.collect()
                gc.freeze()
                gc.enable()
            continue
        if patient and not waiting:
            message, fds = patient.pop(0)
        else:
            try:
                received = wire.receive(control)
            except (OSError, EOFError):
                received = None
            if received is None:
                os._exit(0)
            message, fds = received
        if "prepare" in message or "argv" in message:
            if asleep:
                gc.disable()  # what importing makes stays; looking through it again and again takes a tenth of the time
            waiting, asleep = waiting + asleep, []
        if "prepare" in message:
            continue
        if "probe" in message:
            _probe(control, fds)
            continue
        if "keep" in message:
            _keep(control, fds, message["keep"])
            continue
        if "router" in message:
            _route(control, fds, message["router"])
            continue
        if waiting and message.get("patient"):
            # Many such containers start at once when a cluster does: one import here is cheaper than one in each.
            patient.append((message, fds))
            continue
        if os.fork() == 0:
            gc.enable()
            control.close()
            for _, others in patient:  # another container's channel must close when that container ends
                for fd in others:
                    os.close(fd)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            channel = socket.socket(fileno=fds[0])
            return supervise(msgspec.convert(message, ContainerSpec), channel, fds[1:])
        for fd in fds:
            os.close(fd)


def _keep(control: socket.socket, fds: list[int], directories: list[str]) -> None:
    """Fork the process that removes the cluster's control groups after its end."""
    if os.fork() == 0:
        control.close()
        linux.set_name("sampan-keeper")
        cgroups.keep(socket.socket(fileno=fds[0]), directories)
    for fd in fds:
        os.close(fd)


def _route(control: socket.socket, fds: list[int], number: int) -> None:
    """Fork the process that holds the cluster's network; its channel came along."""
    if os.fork() == 0:
        from sampan.cluster.network import router

        control.close()
        router.serve(socket.socket(fileno=fds[0]), number)
    for fd in fds:
        os.close(fd)


def _probe(control: socket.socket, fds: list[int]) -> None:
    """Try in a child what containers need; the answer names what the system refused."""
    channel = socket.socket(fileno=fds[0])
    if os.fork() == 0:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # who asked has gone meanwhile
            wire.send(channel, {"namespaces": _try_namespaces(), "bind": _try_filter()})
        os._exit(0)
    channel.close()


_SETTINGS = (
    "for users they depend on the settings user.max_user_namespaces, kernel.unprivileged_userns_clone and "
    "kernel.apparmor_restrict_unprivileged_userns"
)


def _try_namespaces() -> str:
    """Empty if namespaces and mounts work, else why not. SAMPAN_ISOLATION=none does without them."""
    if os.environ.get("SAMPAN_ISOLATION") == "none":
        return "SAMPAN_ISOLATION=none"
    try:
        if os.getuid() != 0:
            linux.enter_user_namespace()
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWUTS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("sampan", "/tmp", "tmpfs")  # noqa: S108
    except OSError as error:
        return f"{error.strerror}; {_SETTINGS}" if os.getuid() else str(error.strerror)
    child = os.fork()
    if child == 0:
        try:
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else "mount /proc: not permitted in a new process namespace"


def _try_filter() -> str:
    from sampan.cluster.kubelet import bindfilter

    try:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        os.close(bindfilter.install())
        os.close(linux.pidfd_getfd(os.pidfd_open(os.getpid()), 0))
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
