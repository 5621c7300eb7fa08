"""Run the HTTP fuzzer by hand: how many requests were sent, what the answers were, and what was wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conformance.kubernetes.httpfuzz.compare import compare
from tests.conformance.kubernetes.httpfuzz.run import Result, fuzz
from tests.conformance.kubernetes.targets import Missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kubernetes.httpfuzz", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=30, help="how many different findings to show")
    parser.add_argument("--compare", action="store_true", help="compare codes with the real control plane instead")
    options = parser.parse_args()

    def progress(result: Result) -> None:
        print(
            f"{result.operations} sent, {len(result.found)} wrong, {result.censuses[-1]}", file=sys.stderr, flush=True
        )

    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        if options.compare:
            try:
                different, total = compare(directory, options.seed, options.operations)
            except Missing as error:
                print(f"not run: {error}", file=sys.stderr)
                return 2
            shapes = Counter(shape for shape, _ in different)
            for shape, count in shapes.most_common(options.show):
                print(f"{count} x {shape}\n    {next(told for other, told in different if other == shape)[:600]}")
            print(f"{total} requests, {len(different)} answered with another code, in {len(shapes)} ways")
            return 0
        result = asyncio.run(fuzz(directory, options.seed, options.operations, progress))
    shapes = Counter(found.shape for found in result.found)
    for shape, count in shapes.most_common(options.show):
        first = next(found for found in result.found if found.shape == shape)
        print(f"{count} x {first.what}\n    {first.request}\n")
    print(f"seed {options.seed}: {result.operations} requests in {result.seconds:.0f} s, {len(result.found)} wrong")
    print(f"answers: {dict(sorted(result.codes.items()))}")
    print(f"slowest: {result.slowest:.2f} s, {result.slowest_request[:300]}")
    print(f"before: {result.censuses[0]}\nafter:  {result.censuses[-1]}")
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
