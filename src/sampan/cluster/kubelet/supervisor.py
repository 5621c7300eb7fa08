"""The process beside every container: makes its namespaces and mounts, forks it, keeps its log, reports its end.

Forked from the zygote, single-threaded, one `poll` loop. Its children share the container's namespaces, so `exec` is a
plain fork. It ends with the cluster (end of its channel, or the zygote's death) and takes the container with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import termios
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sampan.cluster.kubelet import bindfilter, cgroups, linux, mounts, warm, wire
from sampan.cluster.kubelet.identity import Identity
from sampan.cluster.kubelet.logfile import LogWriter

CHUNK = 65536


class ContainerSpec(msgspec.Struct, frozen=True):
    """One start of one container. Paths are absolute host paths."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    hostname: str
    log_directory: str
    scratch: str
    start: int = 0
    mounts: list[mounts.Mount] = []
    warm: bool = False
    patient: bool = False  # rather wait for the zygote's imports than do them again
    bind_address: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    namespaces: bool = True
    identity: Identity = Identity()
    groups: list[str] = []  # cgroup.procs files that the container's processes enter


class Program(msgspec.Struct, frozen=True):
    """What the forked container is to become once it has left the supervisor's stack."""

    argv: list[str]
    env: dict[str, str]
    warm: list[str] | None


def supervise(spec: ContainerSpec, channel: socket.socket, namespaces: list[int]) -> Program:
    """Run the container to its end, then exit. Returns only in the container itself, with what it shall run.

    `namespaces`: descriptors of the pod's network and of the user namespace that owns it; empty for the machine's."""
    try:
        return _Supervisor(spec, channel, namespaces).run()
    except Exception as error:
        with contextlib.suppress(OSError):
            wire.send(channel, {"error": f"{error}" or type(error).__name__})
        os._exit(1)


class _Supervisor:
    def __init__(self, spec: ContainerSpec, channel: socket.socket, namespaces: list[int]) -> None:
        self.spec = spec
        self.namespaces = namespaces
        self.channel = channel
        self.log = LogWriter(Path(spec.log_directory), spec.start)
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.readers: dict[int, Callable[[], None]] = {}
        self.outputs: dict[int, str] = {}
        self.watchers: list[tuple[int, int]] = []
        self.stdin = -1
        self.terminal = -1
        self.sessions: dict[int, socket.socket] = {}
        self.ended_by_default = False
        self.container = 0
        # Opened before mounts may cover them.
        self.groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in spec.groups]

    def run(self) -> Program:
        linux.set_name("sampan-pod")
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        if self.spec.namespaces:
            if len(self.namespaces) > 1:
                linux.set_namespace(self.namespaces[1], linux.CLONE_NEWUSER)
            elif os.getuid() != 0:
                linux.enter_user_namespace()
            if self.namespaces:
                linux.set_namespace(self.namespaces[0], linux.CLONE_NEWNET)
            for fd in self.namespaces:
                os.close(fd)
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWUTS)
            linux.set_hostname(self.spec.hostname)
            mounts.apply(self.spec.mounts, self.spec.scratch, readonly_root=self.spec.identity.readonly_root)
        else:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        ours, theirs = socket.socketpair()
        stdio = self._stdio()
        self.container = os.fork()
        if self.container == 0:
            signal.set_wakeup_fd(-1)
            ours.close()
            program = self._become(theirs, stdio)
            if program is None:
                os._exit(127)
            return program
        theirs.close()
        for fd in set(stdio):
            os.close(fd)
        self._handshake(ours)
        self.readers[self.channel.fileno()] = self._command
        self.readers[wake_read] = lambda: self._reap(wake_read)
        poller = select.poll()
        registered: set[int] = set()
        while True:
            wanted = self.readers.keys() | self.outputs.keys()
            for fd in wanted - registered:
                poller.register(fd, select.POLLIN)
            for fd in registered - wanted:
                with contextlib.suppress(KeyError, OSError):
                    poller.unregister(fd)
            registered = set(wanted)
            for fd, _ in poller.poll():
                if fd in self.outputs:
                    self._output(fd)
                elif fd in self.readers:
                    self.readers[fd]()

    def _stdio(self) -> tuple[int, int, int]:
        """Descriptors of the container's stdin, stdout and stderr; the other ends go to our tables."""
        if self.spec.tty:
            self.terminal, slave = os.openpty()
            self.outputs[self.terminal] = "stdout"
            self.stdin = self.terminal
            return slave, slave, slave
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self.outputs |= {out_read: "stdout", err_read: "stderr"}
        if self.spec.stdin:
            in_read, self.stdin = os.pipe()
        else:
            in_read = os.open(os.devnull, os.O_RDONLY)
        return in_read, out_write, err_write

    def _become(self, link: socket.socket, stdio: tuple[int, int, int]) -> Program | None:
        """In the container: the last preparations before the program."""
        try:
            cgroups.join(self.groups)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            if self.spec.namespaces:
                with contextlib.suppress(OSError):
                    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
            if self.spec.bind_address:
                self._install_filter(link)
            _attach_stdio(stdio, self.spec.tty)
            os.chdir(self.spec.cwd)
            self.spec.identity.assume()
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
            program = Program(
                self.spec.argv, self.spec.env, warm.plan(self.spec.argv, self.spec.env) if self.spec.warm else None
            )
            if program.warm is None:
                _must_exist(self.spec.argv[0], self.spec.env)
            link.sendall(b"+")
        except Exception as error:
            with contextlib.suppress(OSError):
                link.sendall(b"-" + str(error).encode())
            return None
        _reset()
        return program

    def _install_filter(self, link: socket.socket) -> None:
        if not (self.spec.namespaces or os.getuid() == 0):
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        try:
            listener = bindfilter.install()
        except OSError:
            return  # the program binds what it asks for
        socket.send_fds(link, [b"f"], [listener])
        os.close(listener)

    def _handshake(self, link: socket.socket) -> None:
        """Wait until the container is about to run its program; its failure is ours."""
        while True:
            data, fds, _, _ = socket.recv_fds(link, 1, 1)
            if data == b"f":
                listener = fds[0]
                self.readers[listener] = partial(self._notified, listener)
            elif data == b"+":
                break
            else:
                message = link.recv(4096).decode(errors="replace") if data else "the container ended before it started"
                raise OSError(message)
        link.close()
        wire.send(self.channel, {"pid": self.container})

    def _notified(self, listener: int) -> None:
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        if any(event & select.POLLIN for _, event in poller.poll(0)):
            if remark := bindfilter.answer(listener, self.spec.bind_address, self.proc):
                self.log.write("stderr", remark.encode())
        else:  # POLLHUP: nobody is left under the filter
            del self.readers[listener]
            os.close(listener)

    def _output(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except OSError:
            data = b""  # a terminal whose last user is gone
        if not data:
            stream = self.outputs.pop(fd)
            if fd != self.terminal:
                os.close(fd)
            del stream
            return
        stream = self.outputs[fd]
        self.log.write(stream, data)
        for pair in list(self.watchers):
            target = pair[stream == "stderr"]
            if target >= 0:
                try:
                    os.write(target, data)
                except OSError:
                    self._drop(pair)

    def _drop(self, pair: tuple[int, int]) -> None:
        self.watchers.remove(pair)
        for fd in pair:
            if fd >= 0:
                os.close(fd)

    def _command(self) -> None:
        try:
            received = wire.receive(self.channel)
        except (OSError, EOFError):
            received = None
        if received is None:  # the cluster is gone, or has given this container up
            self._kill()
            os._exit(1)
        message, fds = received
        getattr(self, f"_do_{message['op']}")(message, fds)

    def _do_signal(self, message: dict[str, Any], fds: list[int]) -> None:
        number = int(message["signal"])
        if number == signal.SIGKILL:
            self._kill()
            return
        caught = self._handled(number)
        if self.spec.namespaces and not caught:
            # The kernel shields process 1 of a namespace from signals it has no handler for; outside a container the
            # program would have ended, so it does here, at once instead of after the grace period.
            self.ended_by_default = True
            self._kill()
            return
        with contextlib.suppress(ProcessLookupError):
            if self.spec.namespaces:
                os.kill(self.container, number)
            else:
                os.killpg(self.container, number)

    def _handled(self, number: int) -> bool:
        """Whether the container's first process catches or ignores the signal."""
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(f"{self.container}/status", os.O_RDONLY, dir_fd=self.proc)
            with os.fdopen(fd) as lines:
                masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt:", "SigIgn:"))]
            return any(mask >> (number - 1) & 1 for mask in masks)
        return True

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.container, signal.SIGKILL)
        if not self.spec.namespaces:
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _do_exec(self, message: dict[str, Any], fds: list[int]) -> None:
        """Run one more command in the container; its end goes to the session's own channel (fds[0])."""
        session = socket.socket(fileno=fds[0])
        env = {**self.spec.env, **({"TERM": "xterm"} if message["tty"] else {})}
        try:
            os.chdir("/")
            _must_exist(message["argv"][0], env)
            pid = os.fork()
        except (OSError, ValueError, IndexError) as error:
            with contextlib.suppress(OSError):  # whoever asked may be gone already
                wire.send(session, {"error": str(error)})
            session.close()
            for fd in set(fds[1:]):
                os.close(fd)
            return
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                cgroups.join(self.groups)
                linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
                os.setsid()
                _attach_stdio((fds[1], fds[2], fds[3]), bool(message["tty"]))
                with contextlib.suppress(OSError):
                    os.chdir(self.spec.cwd)
                self.spec.identity.assume()
                linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
                _reset()
                execute(message["argv"], env)
            except BaseException as error:
                os.write(2, f"{error}\n".encode())
            os._exit(126)
        for fd in set(fds[1:]):
            os.close(fd)
        self.sessions[pid] = session
        with contextlib.suppress(OSError):  # the end of the session will be read next
            wire.send(session, {"pid": pid})
        self.readers[session.fileno()] = lambda: self._session_closed(pid, session)

    def _session_closed(self, pid: int, session: socket.socket) -> None:
        """The client of an exec is gone: so is its command."""
        self.readers.pop(session.fileno(), None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def _do_attach(self, message: dict[str, Any], fds: list[int]) -> None:
        """fds: a copy of stdout, a copy of stderr, and (with `stdin`) a pipe to feed the container's stdin."""
        self.watchers.append((fds[0], fds[1]))
        if message["stdin"] and len(fds) > 2:
            source = fds[2]
            if self.stdin < 0:
                os.close(source)
            else:
                self.readers[source] = lambda: self._feed(source)
        else:
            for fd in fds[2:]:
                os.close(fd)

    def _feed(self, source: int) -> None:
        data = os.read(source, CHUNK)
        if data and self.stdin >= 0:
            with contextlib.suppress(OSError):
                os.write(self.stdin, data)
            return
        del self.readers[source]
        os.close(source)
        if self.spec.stdin_once and self.stdin >= 0 and self.stdin != self.terminal:
            os.close(self.stdin)
            self.stdin = -1

    def _do_resize(self, message: dict[str, Any], fds: list[int]) -> None:
        if self.terminal >= 0:
            with contextlib.suppress(OSError):
                termios.tcsetwinsize(self.terminal, (message["rows"], message["columns"]))

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.container:
                self._finish(code)
            session = self.sessions.pop(pid, None)
            if session is not None:
                self.readers.pop(session.fileno(), None)
                with contextlib.suppress(OSError):
                    wire.send(session, {"exit": code if code >= 0 else 128 - code})
                session.close()

    def _finish(self, code: int) -> None:
        number = -code if code < 0 else 0
        if not self.spec.namespaces:
            self._kill()
        if self.ended_by_default:
            number = signal.SIGTERM
        for fd in list(self.outputs):  # what is still in the pipes belongs to the log
            os.set_blocking(fd, False)
            while fd in self.outputs:
                self._output(fd)
        self.log.close()
        with contextlib.suppress(OSError):
            wire.send(self.channel, {"exit": 128 + number if number else code, "signal": int(number)})
        os._exit(0)


def _attach_stdio(stdio: tuple[int, int, int], tty: bool) -> None:
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _reset() -> None:
    """Signals as a fresh program finds them, and no descriptor but stdio."""
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 16 else 1 << 16)


def _must_exist(program: str, env: dict[str, str]) -> None:
    candidates = [program] if "/" in program else [f"{d}/{program}" for d in env.get("PATH", "").split(":") if d]
    if not any(os.access(path, os.X_OK) and not Path(path).is_dir() for path in candidates):
        raise OSError(f'exec: "{program}": executable file not found' + ("" if "/" in program else " in $PATH"))


def execute(argv: list[str], env: dict[str, str]) -> None:
    """Replace this process. Looks the program up in the PATH of `env`. Raises OSError."""
    os.execvpe(argv[0], argv, env)  # noqa: S606


def run(program: Program) -> None:
    """Become the program; called at the bottom of the stack, so that a warm one ends as any Python process does."""
    if program.warm is None:
        try:
            execute(program.argv, program.env)
        except OSError as error:
            os.write(2, f"{error}\n".encode())
        os._exit(127)
    os.environ.clear()
    os.environ.update(program.env)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    linux.set_name(Path(program.argv[0]).name)
    warm.run(program.warm)


def descendants(root: int) -> list[int]:
    """Every process below `root`, by /proc."""
    found: list[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):
            children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            found += children
            queue += children
    return found
