"""The report of a soak: one HTML page that needs nothing else, and the same figures as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from tests.system.soak import Attempt, Restart, Result

WIDTH, LEFT, RIGHT = 1240, 70, 20
GOOD, BAD, MIDDLE, SLOW = "#3a7d5d", "#c8402f", "#1f5fa8", "#e08a1e"


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


class Second(NamedTuple):
    second: int
    good: int
    bad: int
    p50: float
    p99: float


def by_second(attempts: Iterable[Attempt]) -> list[Second]:
    """Requests by the second in which they were sent; times in seconds, of all of them, answered or not."""
    groups: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(int(attempt.at), []).append(attempt)
    rows = []
    for second in range(max(groups, default=-1) + 1):
        group = groups.get(second, [])
        good = sum(attempt.status == 201 for attempt in group)
        times = [attempt.seconds for attempt in group]
        rows.append(Second(second, good, len(group) - good, percentile(times, 0.5), percentile(times, 0.99)))
    return rows


def figures(result: Result) -> dict[str, Any]:
    """Everything of the report as data. Times in seconds."""
    acknowledged = [order for order in result.orders if order.ids]
    waits = [order.seconds for order in acknowledged]
    times = [attempt.seconds for attempt in result.attempts if attempt.status == 201]
    bad = sum(attempt.status != 201 for attempt in result.attempts)
    problems = result.books.problems
    wrong = Counter(attempt.problem for attempt in result.attempts if attempt.problem)
    return {
        "seconds": result.seconds,
        "rate": result.rate,
        "orders": {
            "placed": len(result.orders),
            "acknowledged": len(acknowledged),
            "acknowledged at the first attempt": sum(order.attempts == 1 for order in acknowledged),
            "given up": len(result.orders) - len(acknowledged),
            "lost": sum(text.startswith("lost") for text in problems),
            "doubled": sum(text.startswith("doubled") for text in problems),
            "in the books": len(result.books.orders),
            "confirmed": sum(row[2] == "confirmed" for row in result.books.orders),
            "reserved": len(result.books.reservations),
            "paid": len(result.books.payments),
            "problems of the books": len(problems),
            "settled after the load": round(result.books.settled_seconds, 1),
            "to the promise, p50": round(percentile(waits, 0.5), 3),
            "to the promise, p99": round(percentile(waits, 0.99), 3),
            "to the promise, longest": round(max(waits, default=0.0), 3),
        },
        "requests": {
            "sent": len(result.attempts),
            "not 201": bad,
            "error rate": round(bad / max(1, len(result.attempts)), 4),
            "p50": round(percentile(times, 0.5), 4),
            "p99": round(percentile(times, 0.99), 4),
            "what went wrong": wrong.most_common(12),
            "by status": {
                str(status): sum(attempt.status == status for attempt in result.attempts)
                for status in sorted({attempt.status for attempt in result.attempts})
            },
        },
        "restarts": [_of_restart(result, restart) for restart in result.restarts],
        "problems": result.problems,
        "by second": [second._asdict() for second in by_second(result.attempts)],
    }


def _of_restart(result: Result, restart: Restart) -> dict[str, Any]:
    during = [attempt for attempt in result.attempts if restart.at <= attempt.at <= restart.ready]
    waits = [order.seconds for order in result.orders if restart.at - 5 <= order.at <= restart.ready and order.ids]
    return {
        "what": restart.what,
        "how": restart.how,
        "at": round(restart.at, 1),
        "ready after": round(restart.ready - restart.at, 1),
        "requests": len(during),
        "errors": sum(attempt.status != 201 for attempt in during),
        "longest wait for a promise": round(max(waits, default=0.0), 2),
        "problem": restart.problem,
    }


# ---------------------------------------------------------------------- the picture


class Panel:
    """A plot of time in seconds against something, from `top` down `height` pixels."""

    def __init__(self, seconds: float, top: int, height: int, low: float, high: float, *, log: bool = False) -> None:
        self.seconds, self.top, self.height, self.low, self.high, self.log = seconds, top, height, low, high, log

    def x(self, second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / self.seconds

    def y(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        part = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.top + self.height * (1 - part)

    def frame(self, title: str, ticks: Iterable[tuple[float, str]]) -> str:
        parts = [f'<text x="{LEFT}" y="{self.top - 8}" class="title">{escape(title)}</text>']
        for value, label in ticks:
            y = self.y(value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        step = next(step for step in (5, 10, 30, 60, 120, 300, 3600) if self.seconds / step <= 15)
        bottom = self.top + self.height
        for second in range(0, int(self.seconds) + 1, step):
            label = f"{second // 60}:{second % 60:02}"
            parts.append(f'<text x="{self.x(second):.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>')
        return "".join(parts)

    def bars(self, values: Iterable[tuple[int, float, float]], colour: str) -> str:
        """(second, from, to)."""
        width = max(0.6, self.x(1) - self.x(0) - 0.2)
        return "".join(
            f'<rect x="{self.x(second):.1f}" y="{self.y(high):.1f}" width="{width:.2f}" '
            f'height="{self.y(low) - self.y(high):.1f}" fill="{colour}"/>'
            for second, low, high in values
            if high > low
        )

    def line(self, values: Iterable[tuple[float, float]], colour: str) -> str:
        points = " ".join(f"{self.x(second + 0.5):.1f},{self.y(value):.1f}" for second, value in values)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'

    def marks(self, restarts: Sequence[Restart], *, numbered: bool) -> str:
        parts = []
        for number, restart in enumerate(restarts, 1):
            x, bottom = self.x(restart.at), self.top + self.height
            wide = max(1.0, self.x(restart.ready) - x)
            parts.append(
                f'<rect x="{x:.1f}" y="{self.top}" width="{wide:.1f}" height="{self.height}" class="away"/>'
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{bottom}" class="mark"/>'
            )
            if numbered:
                parts.append(
                    f'<text x="{x:.1f}" y="{self.top - 26}" text-anchor="middle" class="number">{number}</text>'
                )
        return "".join(parts)


def legend(y: int, entries: Iterable[tuple[str, str]]) -> str:
    parts, x = [], WIDTH - RIGHT
    for label, colour in reversed(list(entries)):
        x -= 7 * len(label) + 24
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{y}">{escape(label)}</text>')
    return "".join(parts)


def picture(result: Result) -> str:
    seconds = by_second(result.attempts)
    length = max(result.seconds, *(r.ready for r in result.restarts), len(seconds)) if seconds else result.seconds
    most = max((row.good + row.bad for row in seconds), default=1)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if most / step <= 6)
    top = Panel(length, 70, 190, 0, most)
    low = Panel(length, 330, 260, 0.005, 10.0, log=True)
    times = ((0.005, "5 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} 625" role="img" aria-label="errors and latency over time">',
        top.marks(result.restarts, numbered=True),
        top.frame("Requests each second", ((n, str(n)) for n in range(0, most + 1, step))),
        legend(62, (("answered 201", GOOD), ("error, or no answer", BAD))),
        top.bars(((row.second, 0, row.good) for row in seconds), GOOD),
        top.bars(((row.second, row.good, row.good + row.bad) for row in seconds), BAD),
        low.marks(result.restarts, numbered=False),
        low.frame("Latency of a request, by the second in which it was sent", times),
        legend(322, (("p50", MIDDLE), ("p99", SLOW))),
        low.line(((row.second, row.p99) for row in seconds if row.good + row.bad), SLOW),
        low.line(((row.second, row.p50) for row in seconds if row.good + row.bad), MIDDLE),
        "</svg>",
    ]
    return "".join(parts)


STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1d2129;max-width:1280px;margin:24px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 4px}.verdict{font-size:18px;font-weight:600}.good{color:#2c6a4b}.bad{color:#b3321f}
svg{width:100%;height:auto;margin:12px 0}svg text{font:12px system-ui,sans-serif;fill:#40454f}
svg .title{font-size:14px;font-weight:600;fill:#1d2129}svg .number{font-weight:600;fill:#5a606b;font-size:11px}
.grid{stroke:#e4e7eb}.axis{stroke:#8a8f98}.mark{stroke:#8a8f98;stroke-dasharray:3 3}.away{fill:#8a8f98;fill-opacity:.13}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 32px 16px 0}
.side{display:flex;flex-wrap:wrap}
th,td{padding:3px 12px 3px 0;text-align:left;border-bottom:1px solid #e9ebee}td.n,th.n{text-align:right}
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f'<{tag} class="{"" if isinstance(cell, str) else "n"}">{escape(str(cell))}</{tag}>' for cell in row
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head) if head else ''}</tr>{body}</table>"


def page(result: Result) -> str:
    data = figures(result)
    orders, requests = data["orders"], data["requests"]
    kept = not orders["lost"] and not orders["doubled"]
    verdict = (
        f"{orders['acknowledged']} orders acknowledged, {orders['lost']} lost, {orders['doubled']} doubled; "
        f"{orders['problems of the books']} disagreements in the books"
    )
    restarts = (
        (number, r["what"], r["how"], r["at"], r["ready after"], r["requests"], r["errors"],
         r["longest wait for a promise"], r["problem"])
        for number, r in enumerate(data["restarts"], 1)
    )  # fmt: skip
    head = (
        "",
        "what",
        "how",
        "at, s",
        "all Ready after, s",
        "requests meanwhile",
        "errors",
        "longest wait, s",
        "problem",
    )
    problems = "".join(f"<li>{escape(text)}</li>" for text in result.problems[:100])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Orders under restarts</title>'
        f"<style>{STYLE}</style><h1>Orders under restarts</h1>"
        f"<p>{result.rate:g} orders a second for {result.seconds:g} s, while everything they need is restarted in turn."
        " A client that gets no answer or a 5xx asks again with the same idempotency key.</p>"
        f'<p class="verdict {"good" if kept and not result.problems else "bad"}">{escape(verdict)}.</p>'
        f"{picture(result)}<ul>{problems}</ul>"
        "<h2>Restarts</h2><p>The numbers are those above the picture; grey is the time until all pods"
        " were Ready, looked at after a second at the earliest.</p>"
        f"{_table(head, restarts)}"
        '<div class="side">'
        f"<div><h2>Orders</h2>{_table((), orders.items())}</div>"
        f"<div><h2>Requests</h2>{_table((), [(k, v) for k, v in requests.items() if not isinstance(v, (dict, list))])}"
        f"{_table(('status (0: no answer)', 'requests'), requests['by status'].items())}</div></div>"
        f"<h2>What went wrong, of requests</h2>{_table((), requests['what went wrong'])}</html>"
    )


def write(result: Result, directory: Path) -> Path:
    """`soak.html`, whose path is given back, and `soak.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.json").write_text(json.dumps(figures(result), indent=1), encoding="utf-8")
    target = directory / "soak.html"
    target.write_text(page(result), encoding="utf-8")
    return target
