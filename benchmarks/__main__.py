"""`./dev bench [AREA] [--json FILE]`: measure every area or one, print a table, write the rows."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import PeerMissing, Row

HERE = Path(__file__).parent
HEADINGS = ("area", "what", "value", "p99 ms", "peer", "its value", "its p99 ms", "ratio")


def areas() -> list[str]:
    found = [*HERE.glob("*.py"), *(path.parent for path in HERE.glob("*/__init__.py"))]
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def said(row: Row) -> str:
    return f"{number(row.value)} {row.unit}" + ("" if row.ratio is None else f", ratio {row.ratio:.2f}")


def table(rows: Sequence[Row]) -> str:
    lines = [HEADINGS] + [
        (
            row.area,
            row.name,
            f"{number(row.value)} {row.unit}",
            number(row.p99),
            row.peer or "-",
            f"{number(row.peer_value)} {row.unit}" if row.peer_value is not None else "-",
            number(row.peer_p99),
            f"{row.ratio:.2f}" if row.ratio is not None else "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    right = {2, 3, 5, 6, 7}
    shown = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])


def keep(rows: Sequence[Row], path: Path | None) -> None:
    """Write what is known so far: whoever ends a long run has the rows of before."""
    if path is not None:
        path.write_text(json.dumps([found.as_dict() for found in rows], indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("area", nargs="?", help=f"one of: {', '.join(areas())}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE as a list")
    options = parser.parse_args(arguments)
    if options.area is not None and options.area not in areas():
        parser.error(f"no area {options.area!r}; there are: {', '.join(areas())}")
    rows: list[Row] = []
    failed = False
    keep(rows, options.json)
    for area in [options.area] if options.area else areas():
        print(f"measuring {area} ...", file=sys.stderr, flush=True)
        try:
            for row in importlib.import_module(f"benchmarks.{area}").run():
                rows.append(row)  # what was measured before an error, or before it was cut, stays
                print(f"  {row.name}: {said(row)}", file=sys.stderr, flush=True)
                keep(rows, options.json)
        except PeerMissing as error:
            failed = True
            print(f"{area}: not measured to its end: {error}", file=sys.stderr)
        except Exception:
            failed = True
            print(f"{area}: failed", file=sys.stderr)
            traceback.print_exc()
    print(table(rows))
    print("\nA ratio above 1 means better than the peer, which ran here at the same time.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
