"""Which instance of a callee gets the next call: the less busy of two taken at random, past those that keep failing and
those that have failed this very call."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import Final

from sampan.service.discovery.port import Instance
from sampan.service.telemetry.metrics import Registry as Metrics

FAILURES: Final = 5  # in a row, and an instance is ejected
EJECTED_SECONDS: Final = 5.0  # the first time; twice as long each time again
_LONGEST_SECONDS: Final = 120.0
_MOST_EJECTED: Final = 0.5  # of the instances: more than that are not the instances' fault


class NoInstance(LookupError):
    """Nobody is registered under that name."""

    http_status = 503


class _Target:
    __slots__ = ("ejections", "failures", "outstanding", "until", "url")

    def __init__(self, url: str) -> None:
        self.url, self.outstanding, self.failures, self.ejections, self.until = url, 0, 0, 0, 0.0


class Balancer:
    """Power of two choices over the outstanding calls of each instance; consecutive failures eject one for a while.

    `update` replaces the set; instances that stay keep what is known of them, calls to those that went may finish.
    """

    def __init__(
        self,
        service: str,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        address: Callable[[Instance], str] = attrgetter("url"),
    ) -> None:
        """`address` says where an instance is called; one without is left out."""
        self.service, self._clock, self._address = service, clock, address
        self.why = "no instance has been seen yet"
        self._targets: dict[str, _Target] = {}
        self._listed: list[_Target] = []
        self._ejected = 0
        metrics = metrics or Metrics()
        self.known = metrics.gauge("discovery_instances", "Instances known of a callee.", ("service",))
        self.ejections = metrics.counter("discovery_ejections_total", "Instances left out for a while.", ("service",))
        self.known.set(0, service)

    @property
    def urls(self) -> list[str]:
        return [target.url for target in self._listed]

    def update(self, instances: Iterable[Instance]) -> None:
        before = self._targets
        urls = dict.fromkeys(filter(None, map(self._address, instances)))
        self._targets = {url: before.get(url) or _Target(url) for url in urls}
        self._listed = list(self._targets.values())
        self._ejected = sum(target.until > 0 for target in self._listed)
        self.why = "none is registered"
        self.known.set(len(self._listed), self.service)

    def pick(self, tried: Collection[str] = ()) -> str:
        """A base URL, another than those `tried` where there is one; `report` how it went. NoInstance."""
        listed = self._listed
        if self._ejected:
            listed = self._usable()
        if tried:
            listed = [target for target in listed if target.url not in tried] or listed
        count = len(listed)
        if count > 2:
            first = int(random.random() * count)
            second = int(random.random() * (count - 1))
            second += second >= first
            one, other = listed[first], listed[second]
        elif count:
            one, other = listed[0], listed[-1]
            if one.outstanding == other.outstanding and random.random() < 0.5:
                one = other
        else:
            raise NoInstance(f"{self.service}: {self.why}")
        if other.outstanding < one.outstanding:
            one = other
        one.outstanding += 1
        return one.url

    def report(self, url: str, ok: bool | None) -> bool:
        """The end of a call to what `pick` gave, once for each. None is no verdict on the instance.

        True when it failed while others are well: that says nothing of the callee as a whole.
        """
        target = self._targets.get(url)
        if target is None:
            return ok is False and bool(self._listed)  # it has gone
        target.outstanding = max(0, target.outstanding - 1)
        if ok:
            target.failures = target.ejections = 0
            if target.until:
                target.until = 0.0
                self._ejected -= 1
        elif ok is False:
            target.failures += 1
            if target.failures >= FAILURES and not target.until:
                self._eject(target)
            return any(not other.failures for other in self._listed)
        return False

    def _eject(self, target: _Target) -> None:
        if len(self._listed) < 2 or (self._ejected + 1) / len(self._listed) > _MOST_EJECTED:
            return
        seconds = min(_LONGEST_SECONDS, EJECTED_SECONDS * 2.0 ** min(target.ejections, 10))
        target.until = self._clock() + seconds * random.uniform(0.8, 1.2)
        target.ejections += 1
        self._ejected += 1
        self.ejections.add(self.service)

    def _usable(self) -> list[_Target]:
        """Those not ejected. One whose time is over comes back, and goes again at its first failure."""
        now = self._clock()
        for target in self._listed:
            if target.until and target.until <= now:
                target.until, target.failures = 0.0, FAILURES - 1
                self._ejected -= 1
        return [target for target in self._listed if not target.until]
