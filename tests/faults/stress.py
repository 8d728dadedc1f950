"""Faults at random, as many as you like: `python tests/faults/stress.py --help`.

Each kind ends in one line with its count, or stops at the first fault that did harm.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KINDS = ("kills", "mutations", "inputs", "corpus")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help="all, if none is named"
    )
    parser.add_argument("--count", type=int, help="kills, mutations (200) or cases (all)")
    parser.add_argument("--only", nargs="+", metavar="CASE_ID", help="of the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="of each run that is killed")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; a new one if none")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gvbsm-faults-"))

    def tell(line):
        print(line, flush=True)  # noqa: T201

    tell(f"work directories: {folder}")
    for kind in options.kinds or KINDS:
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        if kind == "kills":
            from faults.kills import run_kills

            found = run_kills(place, options.count or 200, options.seed, options.processes, tell)
        elif kind == "mutations":
            from faults.mutations import run_mutations

            found = run_mutations(place, options.count or 200, options.seed, tell)
        elif kind == "corpus":
            from faults.corpus import all_cases, draw, run_corpus

            names = options.only or list(all_cases())
            if options.count is not None and not options.only:
                names = draw(options.count, options.seed)
            found = run_corpus(place, names, options.seed, tell)
        else:
            from faults.inputs import run_inputs

            found = run_inputs(place, tell)
        tell(f"{kind}: {found}, no harm done, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
