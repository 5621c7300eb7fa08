"""Run the fuzzer by hand: how many operations ran, how many differed, and how."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.kubernetes.fuzz.run import Result, run
from tests.conformance.kubernetes.targets import Missing, start_api_alone, start_real
from tests.conformance.kubernetes.wire import Wire


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kubernetes.fuzz", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=40, help="how many different differences to show")
    options = parser.parse_args()

    def progress(result: Result) -> None:
        print(f"{result.operations} operations, {len(result.found)} differed", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "real").mkdir()
        (directory / "ours").mkdir()
        try:
            real = start_real(directory / "real", controllers=False)
        except Missing as error:
            print(f"not run: {error}", file=sys.stderr)
            return 2
        ours = start_api_alone(directory / "ours")
        try:
            result = run(
                Wire(real.kubeconfig), Wire(ours.kubeconfig),
                seed=options.seed, operations=options.operations, progress=progress,
            )  # fmt: skip
        finally:
            real.stop()
            ours.stop()
    seen: set[str] = set()
    for difference in result.found:
        if difference.shape in seen or len(seen) >= options.show:
            continue
        seen.add(difference.shape)
        print(f"\n{result.shapes[difference.shape]} x  #{difference.number} {difference.operation}")
        for line in difference.lines[:6]:
            print(f"    {line}")
    print(f"\nseed {options.seed}: {result.operations} operations in {result.seconds:.0f} s, ", end="")
    print(f"{len(result.found)} differed, in {len(result.shapes)} ways; answers: {dict(sorted(result.codes.items()))}")
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
