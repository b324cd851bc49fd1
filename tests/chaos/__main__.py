"""Every fault at every request of every stage.

    nox -s chaos                                        all of them, or what is missing of them; takes hours
    nox -s chaos -- --sample 100                        100 of them, chosen at random
    nox -s chaos -- --stage promote --kind kill-after   only those
    nox -s chaos -- --only 'promote:arm PUT ~/onlineEndpoints/chaos #1:kill-after'   one of them, with all of its output

A trial stops a stage at one of its requests, does what the workflow does then, and runs the same again without a fault. Results are kept in
``--folder`` and are not made again; ``--repeat failed`` or ``all`` does so. Exits with 1 if an invariant did not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Any

from mlops.report.markdown import table
from tests.chaos import trial as trials
from tests.chaos.faults import KINDS, is_write, kinds_for, points
from tests.chaos.runner import Runner, read_recorded
from tests.chaos.trial import Result, Trial
from tests.chaos.world import STAGES, World

SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Do the selected trials, print a table of the results, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path(".mlops/chaos"), help="for states and results (default: %(default)s)")
    options.add_argument("--stage", action="append", choices=STAGES, help="only this stage; repeatable")
    options.add_argument("--kind", action="append", choices=KINDS, help="only this kind of fault; repeatable")
    options.add_argument("--only", metavar="STAGE:REQUEST:FAULT", help="one trial, as the results name it")
    options.add_argument("--sample", type=int, metavar="N", help="N trials, chosen at random; always the same")
    options.add_argument("--repeat", choices=("failed", "all"), help="do trials again of which there is a result")
    options.add_argument("--parallel", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    arguments = options.parse_args(argv)
    folder = arguments.folder.resolve()
    make_states(folder)
    selected = select(folder, arguments)
    results = {} if arguments.repeat == "all" else read_results(folder)
    missing = [each for each in selected if str(each) not in results or (arguments.repeat == "failed" and results[str(each)].violations)]
    print(f"{len(selected)} trials, {len(selected) - len(missing)} of them are done", flush=True)
    for result in do(folder, missing, min(arguments.parallel, len(missing))):
        results[result.trial] = result
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
    chosen = [results[str(each)] for each in selected]
    if arguments.only:
        print(chosen[0].text)
    return report(folder, chosen)


def make_states(folder: Path) -> None:
    """Make the states before the stages, and record each stage without a fault, unless that has been done."""
    path = folder / "recorded.json"
    recorded = read_recorded(folder) if path.exists() else {}
    if recorded.keys() == STAGES.keys():
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch, World(folder / "states", Path(scratch), folder / "cache") as world:
        print("making the states before the stages", flush=True)
        world.prepare()
        for stage in STAGES.values():
            if stage.name not in recorded:
                print(f"recording {stage.name}", flush=True)
                requests, summary = trials.record(world, stage)
                recorded[stage.name] = {"requests": requests, "summary": summary}
                path.write_text(json.dumps(recorded, indent=1))


def all_trials(recorded: Mapping[str, Any]) -> list[Trial]:
    """Return all trials: those at the first and the last of equal changes, then at other changes, then at reads, each in random order."""
    found: list[tuple[int, Trial]] = []
    for stage, each in recorded.items():
        totals = Counter(each["requests"])
        for point in points(each["requests"]):
            rank = 2 if not is_write(point.request) else int(point.occurrence not in (1, totals[point.request]))
            found += [(rank, Trial(stage, point, kind)) for kind in kinds_for(point.request)]
    random.Random(SEED).shuffle(found)
    return [trial for _, trial in sorted(found, key=lambda entry: entry[0])]


def select(folder: Path, arguments: argparse.Namespace) -> list[Trial]:
    """Return the trials that the options select."""
    if arguments.only:
        return [Trial.parse(arguments.only)]
    selected = [
        each
        for each in all_trials(read_recorded(folder))
        if (not arguments.stage or each.stage in arguments.stage) and (not arguments.kind or each.kind in arguments.kind)
    ]
    return random.Random(SEED).sample(selected, min(arguments.sample, len(selected))) if arguments.sample else selected


def read_results(folder: Path) -> dict[str, Result]:
    """Return trial → the last result of it."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {result.trial: result for result in (Result(**json.loads(line)) for line in lines)}


def do(folder: Path, missing: Sequence[Trial], parallel: int) -> Iterable[Result]:
    """Do trials, and yield their results as they come, with a line of progress for each."""
    if not missing:
        return
    begin, runners = time.monotonic(), Queue[Runner]()
    for _ in range(parallel):
        runners.put(Runner(folder))

    def run(trial: Trial) -> Result:
        runner = runners.get()
        try:
            return runner.run(trial)
        finally:
            runners.put(runner)

    with ThreadPoolExecutor(parallel) as pool:
        for done, future in enumerate(as_completed([pool.submit(run, each) for each in missing]), 1):
            result = future.result()
            left = (time.monotonic() - begin) / done * (len(missing) - done)
            outcome = "; ".join(result.violations)[:300] or ("holds" if result.reached else "not reached")
            print(f"{done}/{len(missing)} {left / 60:.0f} min left  {result.trial}: {outcome}", flush=True)
            yield result
    while not runners.empty():
        runners.get().close()


def report(folder: Path, results: Sequence[Result]) -> int:
    """Print a table of stages and kinds, write the failures to a file, and return the exit code."""
    cells: dict[tuple[str, str], list[bool]] = {}
    for result in results:
        if result.reached:
            trial = Trial.parse(result.trial)
            cells.setdefault((trial.stage, trial.kind), []).append(not result.violations)
    kinds = [kind for kind in KINDS if any(kind == each for _, each in cells)]
    rows = []
    for stage in (name for name in STAGES if any(name == each for each, _ in cells)):
        own = [cells.get((stage, kind), []) for kind in kinds]
        held, done = sum(map(sum, own)), sum(map(len, own))
        rows.append((stage, *(f"{sum(cell)} of {len(cell)}" if cell else "" for cell in own), f"{held} of {done}"))
    failures = [dataclasses.asdict(each) | {"again": f"nox -s chaos -- --only '{each.trial}'"} for each in results if each.violations]
    (folder / "failures.json").write_text(json.dumps(failures, indent=1))
    reached = [each for each in results if each.reached]
    print(table(("stage", *kinds, "all"), rows))
    print(f"\n{len(reached) - len(failures)} of {len(reached)} trials hold; {len(results) - len(reached)} were not reached.")
    print(f"The failures are in {folder / 'failures.json'}." if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
