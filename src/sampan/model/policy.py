"""How a workload calls another service (`Policy`), and how much a service takes on itself (`Limits`). Times in seconds.

    Service("orders", calls=[users, Call(pricing, Policy(timeout=0.3, hedge=0.05))], limits=Limits(rate=50))

The defaults are meant to be right for a call inside a cluster; a policy names what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from sampan.model.application import Service


class Breaker(Struct, frozen=True):
    """When calls to a failing callee stop: after `failures` in a row, or once the share `rate` of at least `volume`
    calls within `window` seconds has failed. After `pause` seconds (twice as long after each failed probe, at most
    eight times) `probes` calls are let through; if all succeed, calls flow again."""

    failures: int = 5
    rate: float = 0.5
    volume: int = 20
    window: float = 10.0
    pause: float = 1.0
    probes: int = 1


class Policy(Struct, frozen=True):
    """What a caller does for, and to, one callee.

    - `timeout`: the whole call, all attempts and all waiting; what the request being served has left may be less.
      `attempt_timeout`: one attempt; None leaves it all that is left. `connect_timeout`: to open a connection.
    - `retries`: attempts after the first, of what is safe to repeat: idempotent methods, calls with an idempotency
      key, and anything that was never sent. `retry_on` are the statuses that are tried again; a lost connection always
      is. Waits grow from `backoff` to `backoff_most`, jittered, and are never shorter than the callee's Retry-After.
    - `retry_budget`: retries and hedges as a share of calls, beside `retry_minimum` a second: an outage cannot
      multiply the load.
    - `breaker`: None for none.
    - `concurrency`: calls in flight, `waiting`: calls that wait for one of these to end; more are refused at once.
      `connections`: None for as many as there are calls.
    - `hedge`: send a safe call (GET, HEAD, OPTIONS) a second time when it has not been answered for so long, at most
      `hedges` times; the first good answer wins. The callee's 95th percentile is a good value.
    - `forward_token`: pass the Authorization of the request being served on to the callee.
    """

    timeout: float = 10.0
    attempt_timeout: float | None = None
    connect_timeout: float = 1.0
    retries: int = 3
    retry_on: Collection[int] = frozenset({502, 503, 504})
    retry_budget: float = 0.2
    retry_minimum: float = 1.0
    backoff: float = 0.025
    backoff_most: float = 1.0
    breaker: Breaker | None = field(default_factory=Breaker)
    concurrency: int = 100
    waiting: int = 100
    connections: int | None = None
    hedge: float | None = None
    hedges: int = 1
    forward_token: bool = False


class Call(Struct, frozen=True):
    """A called service with the policy for calling it, in `calls=[...]`."""

    service: Service | str
    policy: Policy = field(default_factory=Policy)

    @property
    def name(self) -> str:
        return self.service if isinstance(self.service, str) else getattr(self.service, "name", repr(self.service))


class Limits(Struct, frozen=True):
    """What a service takes on from its callers; beyond it, 503 (or 429 for `rate`) and Retry-After.

    - `concurrency`: requests being served at most. With `adaptive` (the default) the limit in force is found by
      watching latency, between `least` and this; without, it is this. Up to twice `latency` is never too slow.
    - `queue`: requests that wait for a place; None for as many as half the limit in force. A request waits for no more
      than `queue_share` of the time its caller has left, and `queue_seconds`.
    - `lag`: the event loop may stay late by so much before a share of the requests is refused; by four times as much
      in the environment `dev`, where a whole system shares a few cores.
    - `rate`: requests a second of one caller (its identity, else its address), None for no limit; `burst` at once,
      None for one second's worth.
    - `priority`: path prefixes and their urgency, 0 (first) to 7 (last); 3 otherwise. Of those who wait the most
      urgent is served first, and gives way last.
    - `exempt`: path prefixes that are neither counted nor refused, as those of long-lived streams should be.
    """

    concurrency: int = 1000
    adaptive: bool = True
    least: int = 8
    latency: float = 0.1
    queue: int | None = None
    queue_share: float = 0.1
    queue_seconds: float = 0.25
    lag: float = 0.5
    rate: float | None = None
    burst: int | None = None
    priority: Mapping[str, int] = field(default_factory=dict)
    exempt: Collection[str] = ()


_POSITIVE, _COUNT, _FROM_ZERO, _SHARE = "more than 0", "a whole number from 1", "0 or more", "between 0 and 1"
_CHECKS: Final[dict[type, dict[str, str]]] = {
    Policy: {
        "timeout": _POSITIVE,
        "attempt_timeout": _POSITIVE,
        "connect_timeout": _POSITIVE,
        "retries": _FROM_ZERO,
        "retry_budget": _FROM_ZERO,
        "retry_minimum": _FROM_ZERO,
        "backoff": _FROM_ZERO,
        "backoff_most": _FROM_ZERO,
        "concurrency": _COUNT,
        "waiting": _FROM_ZERO,
        "connections": _COUNT,
        "hedge": _FROM_ZERO,
        "hedges": _COUNT,
    },
    Breaker: {
        "failures": _COUNT,
        "rate": _SHARE,
        "volume": _COUNT,
        "window": _POSITIVE,
        "pause": _POSITIVE,
        "probes": _COUNT,
    },
    Limits: {
        "concurrency": _COUNT,
        "least": _COUNT,
        "latency": _FROM_ZERO,
        "queue": _FROM_ZERO,
        "queue_share": _SHARE,
        "queue_seconds": _FROM_ZERO,
        "lag": _POSITIVE,
        "rate": _POSITIVE,
        "burst": _COUNT,
    },
}


def _holds(value: Any, rule: str) -> bool:
    if value is None:  # where None is no choice the type says so
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if rule == _COUNT:
        return isinstance(value, int) and value >= 1
    return {_POSITIVE: value > 0, _FROM_ZERO: value >= 0, _SHARE: 0 <= value <= 1}[rule]


def faults(declared: Policy | Limits) -> Iterator[tuple[str, str]]:
    """What is wrong with it, each as what was written and how to mend it."""
    parts: list[Any] = [declared]
    if isinstance(declared, Policy) and declared.breaker is not None:
        parts.append(declared.breaker)
    for part in parts:
        kind = type(part).__name__
        for name, rule in _CHECKS[type(part)].items():
            value = getattr(part, name)
            if not _holds(value, rule):
                yield f"{kind}({name}={value!r})", f"{name} must be {rule}"
    if isinstance(declared, Policy):
        yield from _policy_faults(declared)
    else:
        yield from _limits_faults(declared)


def _policy_faults(policy: Policy) -> Iterator[tuple[str, str]]:
    for status in policy.retry_on:
        if not isinstance(status, int) or not 400 <= status <= 599:
            yield f"Policy(retry_on=...) has {status!r}", "retry_on takes statuses from 400 to 599"
    for name in ("attempt_timeout", "hedge"):
        value = getattr(policy, name)
        if isinstance(value, (int, float)) and value >= policy.timeout:
            yield (
                f"Policy({name}={value:g}, timeout={policy.timeout:g})",
                f"{name} must be shorter than timeout, or it never comes to bear",
            )


def _limits_faults(limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.adaptive and limits.least > limits.concurrency:
        yield (
            f"Limits(least={limits.least}, concurrency={limits.concurrency})",
            "least must not be above concurrency; a fixed limit is Limits(concurrency=..., adaptive=False)",
        )
    if limits.burst is not None and limits.rate is None:
        yield f"Limits(burst={limits.burst})", "burst needs a rate"
    for prefix in (*limits.priority, *limits.exempt):
        if not prefix.startswith("/"):
            yield f"Limits has the path prefix {prefix!r}", "a path prefix begins with /"
    for prefix, urgency in limits.priority.items():
        if urgency not in range(8):
            yield f"Limits(priority={{{prefix!r}: {urgency!r}}})", "a priority is 0 (first) to 7 (last)"
