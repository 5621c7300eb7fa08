"""Run the fuzzer by hand: how many operations ran, how many differed, and how."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.kubernetes.fuzz.generate import MIXES
from tests.conformance.kubernetes.fuzz.kinds import KINDS
from tests.conformance.kubernetes.fuzz.run import Result, run
from tests.conformance.kubernetes.targets import Missing, start_api_alone, start_real
from tests.conformance.kubernetes.wire import Wire


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kubernetes.fuzz", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=0, help="end sooner, after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="only kinds whose apiVersion/Kind holds one of these words, as a,b")
    parser.add_argument("--mix", choices=list(MIXES), default="all", help="what is asked, and how often")
    parser.add_argument("--show", type=int, default=40, help="how many different differences to show")
    parser.add_argument("--json", type=Path, help="write a summary to this file")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if any(word in kind for word in options.kinds.split(","))]

    def progress(result: Result) -> None:
        rate = result.operations / result.seconds
        told = f"{result.operations} operations, {rate:.0f} a second, {len(result.found)} differed"
        print(told, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "real").mkdir()
        (directory / "ours").mkdir()
        try:
            real = start_real(directory / "real", controllers=False, durable=False)
        except Missing as error:
            print(f"not run: {error}", file=sys.stderr)
            return 2
        try:
            ours = start_api_alone(directory / "ours")
            try:
                result = run(
                    Wire(real.kubeconfig), Wire(ours.kubeconfig), seed=options.seed, operations=options.operations,
                    minutes=options.minutes, kinds=kinds, mix=options.mix, progress=progress,
                )  # fmt: skip
            finally:
                ours.stop()
        finally:
            real.stop()
    show(result, options.show)
    if options.json:
        options.json.write_text(json.dumps(summary(options.seed, result), indent=2) + "\n")
    print(f"\nseed {options.seed}: {result.operations} operations in {result.seconds:.0f} s, ", end="")
    print(f"{len(result.found)} differed, in {len(result.shapes)} ways; {result.left_out} left out after one that did;")
    print(f"{result.states} stored objects, {result.watches} watches with {result.events} events compared;", end=" ")
    print(f"answers: {dict(sorted(result.codes.items()))}")
    return 1 if result.found else 0


def show(result: Result, most: int) -> None:
    """The differences by kind, the most frequent first, each with what went before it."""
    for shape, count in result.shapes.most_common(most):
        found = next(one for one in result.found if one.shape == shape)
        print(f"\n{count} x  #{found.number} {found.operation}")
        for line in found.lines[:6]:
            print(f"    {line}")
        for line in found.history[-12:] if found.operation.method == "WATCH" else found.history[-4:]:
            print(f"      after {line[:700]}")


def summary(seed: int, result: Result) -> dict[str, Any]:
    return {
        "seed": seed,
        "operations": result.operations,
        "left_out": result.left_out,
        "differences": len(result.found),
        "classes": dict(result.shapes.most_common()),
        "states": result.states,
        "watches": result.watches,
        "events": result.events,
        "seconds": round(result.seconds, 1),
        "codes": {str(code): count for code, count in sorted(result.codes.items())},
    }


if __name__ == "__main__":
    sys.exit(main())
