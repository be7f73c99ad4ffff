"""`python -m tests.sim`: the whole grid as a table, then the worst cells. `make sim`."""

from __future__ import annotations

import sys

from tests.sim.grid import ON_DEMAND, TARGET, falls_short, paths, run, worst
from tests.sim.patterns import PATTERNS


def main() -> int:
    missed = 0
    for name, pattern in PATTERNS.items():
        for path in paths(("cubic", "bbr") if name == "sequential" else ("cubic",)):
            result = run(path, pattern)
            short = name == "sequential" and not falls_short(path) and result.of_oracle < TARGET
            short |= result.on_demand < ON_DEMAND
            missed += short
            print(result, "  <-- missed" if short else "", flush=True)
    print(*worst(), sep="\n")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
