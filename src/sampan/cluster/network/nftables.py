"""Rule sets of nf_tables as netlink batches: tables, chains, sets, and the few expressions that policies need.

A batch is applied whole or not at all. Numbers of attributes are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence

from sampan.cluster.network.netlink import Netlink, attribute, message, nested, text

_SUBSYSTEM = 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM = 0, 2, 3, 6, 9, 12
_BEGIN, _END = 16, 17
_REQUEST, _ACK, _CREATE, _APPEND = 1, 4, 0x400, 0x800
_IPV4 = 2
_SO_SNDBUFFORCE = 32
PREROUTING, OUTPUT = 0, 3
ACCEPT, RETURN = 1, -5
_JUMP = -3
EQUAL, NOT_EQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
_CHUNK = 500  # elements a message: an attribute holds at most 64 KiB


def _number(kind: int, value: int) -> bytes:
    """32 bits in network order, which is what nf_tables speaks."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(1, data))


def expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


def load(base: int, offset: int, length: int) -> bytes:
    """Bytes of the packet into register 1; base 1 is the network header, 2 the transport header."""
    return expression("payload", _number(1, 1), _number(2, base), _number(3, offset), _number(4, length))


def compare(how: int, data: bytes) -> bytes:
    return expression("cmp", _number(1, 1), _number(2, how), _value(3, data))


def mask(data: bytes) -> bytes:
    zero = bytes(len(data))
    return expression("bitwise", _number(1, 1), _number(2, 1), _number(3, len(data)), _value(4, data), _value(5, zero))


def in_set(name: str) -> bytes:
    return expression("lookup", text(1, name), _number(2, 1))


def verdict(code: int, chain: str = "") -> bytes:
    parts = _number(1, code) + (text(2, chain) if chain else b"")
    return expression("immediate", _number(1, 0), nested(2, nested(2, parts)))


def jump(chain: str) -> bytes:
    return verdict(_JUMP, chain)


def refusals() -> list[bytes]:
    """Two rules' worth: connect() fails at once with ECONNREFUSED. TCP by a reset, as ICMP is limited to one a second;
    the rest by ICMP "port unreachable"."""
    reset = protocol(socket.IPPROTO_TCP) + expression("reject", _number(1, 1), attribute(2, b"\0"))
    return [reset, expression("reject", _number(1, 0), attribute(2, b"\x03"))]


def protocol(number: int) -> bytes:
    return expression("meta", _number(1, 1), _number(2, 16)) + compare(EQUAL, bytes([number]))


def belongs_to_a_connection() -> bytes:
    """Established, or related to one that is."""
    state = expression("ct", _number(1, 1), _number(2, 0))
    return state + mask(struct.pack("=I", 6)) + compare(NOT_EQUAL, bytes(4))


def rewrite_destination(address: str, port: int) -> bytes:
    def put(register: int, data: bytes) -> bytes:
        return expression("immediate", _number(1, register), _value(2, data))

    nat = expression("nat", _number(1, 1), _number(2, _IPV4), _number(3, 1), _number(5, 2))
    return put(1, socket.inet_aton(address)) + put(2, struct.pack("!H", port)) + nat


class Batch:
    """Messages that take effect together."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._what: dict[int, str] = {}
        self._sets = 0
        self._last_table = ""

    def __len__(self) -> int:
        return len(self._messages)

    def content(self) -> bytes:
        """What two equal batches have in common."""
        return b"".join(self._messages)

    def _add(self, kind: int, flags: int, what: str, *attributes: bytes) -> None:
        sequence = len(self._messages) + 2
        self._what[sequence] = what
        body = struct.pack("!BBH", _IPV4, 0, 0) + b"".join(attributes)
        self._messages.append(message(_SUBSYSTEM << 8 | kind, _REQUEST | flags, sequence, body))

    def replace_table(self, name: str) -> None:
        """An empty table, whatever there was."""
        self._last_table = name
        self._add(_NEWTABLE, _CREATE, f"table {name}", text(1, name))
        self._add(_DELTABLE, 0, f"delete table {name}", text(1, name))
        self._add(_NEWTABLE, _CREATE, f"table {name}", text(1, name))

    def chain(self, table: str, name: str, *, kind: str = "", hook: int = 0, priority: int = 0) -> None:
        """With a `kind` (filter, nat) a base chain at `hook`."""
        base = nested(4, _number(1, hook), _number(2, priority)) + text(7, kind) if kind else b""
        self._add(_NEWCHAIN, _CREATE, f"chain {name}", text(1, table), text(3, name), base)

    def rule(self, table: str, chain: str, *expressions: bytes) -> None:
        self._add(
            _NEWRULE, _CREATE | _APPEND, f"rule of {chain}", text(1, table), text(2, chain), nested(4, *expressions)
        )

    def addresses(self, table: str, name: str, members: Iterable[str]) -> None:
        """A set of IPv4 addresses."""
        self._sets += 1
        self._add(
            _NEWSET, _CREATE, f"set {name}", text(1, table), text(2, name), _number(3, 0), _number(4, 7),
            _number(5, 4), _number(10, self._sets), nested(9, _number(1, max(1, len(list(members))))),
        )  # fmt: skip
        keys: Sequence[bytes] = [nested(1, _value(1, socket.inet_aton(member))) for member in sorted(members)]
        for first in range(0, len(keys), _CHUNK):
            elements = nested(3, *keys[first : first + _CHUNK])
            self._add(_NEWSETELEM, _CREATE, f"elements of {name}", text(1, table), text(2, name), elements)

    def commit(self, netlink: Netlink) -> None:
        """Apply. Raises OSError with what was refused; then nothing has changed."""
        edge = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
        self._add(_NEWTABLE, _CREATE | _ACK, "the end", text(1, self._last_table))  # refusals come unasked
        last = len(self._messages) + 1
        begin = message(_BEGIN, _REQUEST, 1, edge)
        end = message(_END, _REQUEST, last + 1, edge)
        data = b"".join([begin, *self._messages, end])
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                netlink.socket.setsockopt(socket.SOL_SOCKET, option, max(1 << 20, 2 * len(data)))
                break
        netlink.socket.send(data)
        netlink.confirm(last, {1: "nf_tables", **self._what})
