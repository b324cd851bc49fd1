"""Error rates, power and speed of the gate, on scores whose true difference is known.

    python -m benchmarks.gate coverage [--test wilcoxon] [--trials 2000] [--rows 100 200] [--workers 2]
    python -m benchmarks.gate methods
    python -m benchmarks.gate power
    python -m benchmarks.gate real RUN/evaluate/candidate.jsonl RUN/evaluate/base.jsonl
    python -m benchmarks.gate speed

:func:`mlops.judging.rules.judge_rule` makes every judgement, including validity checks. Each command prints a Markdown table. The random
numbers are the same in every run. gate_pairs.py describes the distributions of the scores.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gate_speed
from benchmarks.gate_methods import METHODS, miss_rates
from benchmarks.gate_pairs import NOISES, Cell, evidence, pair
from mlops.core.judgement import Interval, Outcome
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, Rows
from mlops.judging.rules import judge_rule

ABSOLUTE, RELATIVE = 0.1, 0.05
"""The margins: in nats per token, and as a fraction of the baseline's value."""
EFFECTS = (0.005, 0.01, 0.02, 0.05)
FEWEST = 100
ROWS = (FEWEST, 200, 500, 1_000, 5_000)


def main() -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("coverage", coverage), ("methods", methods), ("power", power), ("real", real), ("speed", gate_speed.speed)):
        command = commands.add_parser(name, help=(run.__doc__ or "").partition("\n")[0])
        command.set_defaults(run=run)
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--trials", type=int, default=2_000)
        if name == "speed":
            command.add_argument("--rows", type=int, nargs="*", help="numbers of rows to compare with scipy; 100,000 take scipy minutes")
        if name == "coverage":
            command.add_argument("--test", choices=("paired_bootstrap", "wilcoxon"), default="paired_bootstrap")
            command.add_argument("--rows", type=int, nargs="*", default=ROWS)
        if name == "real":
            command.add_argument("candidate", type=Path)
            command.add_argument("baseline", type=Path)
    options = parser.parse_args()
    options.run(options)
    return 0


# Coverage and false promotions


@dataclass(frozen=True)
class Tally:
    """Rates over the trials."""

    covered: float
    """The interval of the difference contains the true difference."""
    relative_covered: float
    """The interval of the distance from a relative margin contains the true distance, which is 0."""
    equal_promoted: float
    absolute_promoted: float
    relative_promoted: float


def coverage(options: argparse.Namespace) -> None:
    """Measure how often intervals contain the true value, and how often equal or worse candidates are promoted."""
    bootstrap = options.test == "paired_bootstrap"
    cells = [Cell(rows, noise) for rows in options.rows for noise in (NOISES if bootstrap else ("light", "heavy", "spikes"))]
    # Lengths and correlation only have a visible effect if there are few rows.
    if bootstrap and FEWEST in options.rows:
        cells += [Cell(FEWEST, noise, lengths=lengths) for noise in NOISES for lengths in (0.0, 1.0)]
        cells += [Cell(FEWEST, noise, correlation=correlation) for noise in NOISES for correlation in (0.5, 0.99)]
    cells.sort(key=lambda cell: (cell.rows, NOISES.index(cell.noise), cell.lengths, cell.correlation))
    write_line(f"{options.test}, {options.trials:,} trials per value, {percent(0.95)} intervals, 2.5 % on each side.\n")
    heads = ("rows", "noise", "log-sd of lengths", "correlation", "coverage", "coverage, relative")
    table_head(*heads, "promoted: equal", "worse by the margin", "worse by the relative margin")
    for cell, tally in zip(cells, map_cells(options, functools.partial(tally_cell, options.test, options.trials), cells), strict=True):
        shares = (tally.covered, tally.relative_covered, tally.equal_promoted, tally.absolute_promoted, tally.relative_promoted)
        table_row(f"{cell.rows:,}", cell.noise, f"{cell.lengths:g}", f"{cell.correlation:g}", *map(percent, shares))


def tally_cell(test: str, trials: int, cell: Cell) -> Tally:
    """Compute the rates for pairs drawn from a cell."""
    draw = functools.partial(pair, cell, cell.generator(1))
    return tally(test, ((draw(), draw(worse=ABSOLUTE), draw(worse=RELATIVE, relative=True)) for _ in range(trials)))


def tally(test: str, trials: Iterable[tuple[Evidence, Evidence, Evidence]]) -> Tally:
    """Compute the rates for triples of pairs: equal, worse by the absolute margin, and worse by the relative margin."""
    make_rule = functools.partial(rule, test=test)
    rules = (make_rule(), make_rule(margin=ABSOLUTE, margin_kind="absolute"), make_rule(margin=RELATIVE))
    results = []
    for pairs in trials:
        equal, absolute, relative = (judge_rule(*arguments) for arguments in zip(rules, pairs, strict=True))
        covered = (contains(equal.interval, 0.0) + contains(absolute.interval, ABSOLUTE)) / 2
        promoted = [judgement.outcome is Outcome.SHOWN for judgement in (equal, absolute, relative)]
        results.append((covered, contains(relative.distance_interval, 0.0), *promoted))
    return Tally(*np.array(results, dtype=float).mean(axis=0).tolist())


def contains(interval: Interval | None, truth: float) -> bool:
    """Return whether the true value is inside the interval. A missing interval contains everything."""
    return interval is None or interval.low <= truth <= interval.high


def methods(options: argparse.Namespace) -> None:
    """Compare the gate's interval with common ones: how often each contains the true value, lies above it, and lies below it."""
    cells = [Cell(rows, noise, lengths) for rows in (FEWEST, 5 * FEWEST) for noise in NOISES for lengths in (0.6, 1.0)]
    write_line(f"Coverage (intervals above and below the true value); {options.trials:,} trials per value, {percent(0.95)} intervals.\n")
    table_head("rows", "noise", "log-sd of lengths", *METHODS)
    for cell, shares in zip(cells, map_cells(options, functools.partial(miss_rates, options.trials), cells), strict=True):
        texts = [f"{percent(1 - above - below)} ({percent(above)}, {percent(below)})" for above, below in shares.tolist()]
        table_row(f"{cell.rows:,}", cell.noise, f"{cell.lengths:g}", *texts)


# Power


def power(options: argparse.Namespace) -> None:
    """Measure how often a better candidate is promoted, for several effect sizes and for the minimum detectable effect."""
    cells = [Cell(rows, noise) for noise in ("light", "spikes") for rows in ROWS]
    write_line(f"Rule: not worse than the base (margin 0, {percent(0.95)}). {options.trials:,} trials per value; correlation 0.9.\n")
    table_head("noise", "rows", "MDE (mean)", *(f"better by {percent(effect)}" for effect in EFFECTS), "better by the MDE")
    for cell, (detectable, rates) in zip(cells, map_cells(options, functools.partial(measure_power, options.trials), cells), strict=True):
        table_row(cell.noise, f"{cell.rows:,}", percent(detectable), *map(percent, rates))


def measure_power(trials: int, cell: Cell) -> tuple[float, list[float]]:
    """Return the mean minimum detectable effect, relative to the baseline's value, and the promotion rates for each effect and for it."""
    default_rule = rule()
    sizes: list[float] = []
    for _ in range(200):
        generator = cell.generator(2, len(sizes))
        judgement = judge_rule(default_rule, pair(cell, generator))
        assert judgement.mde is not None
        assert judgement.reference is not None
        sizes.append(judgement.mde / judgement.reference)
    detectable = float(np.mean(sizes))
    rates = []
    for place, effect in enumerate((*EFFECTS, detectable)):
        generator = cell.generator(3, place)
        judged = (judge_rule(default_rule, pair(cell, generator, worse=-effect, relative=True)) for _ in range(trials))
        rates.append(sum(judgement.outcome is Outcome.SHOWN for judgement in judged) / trials)
    return detectable, rates


# Real scores


def real(options: argparse.Namespace) -> None:
    """Measure the same rates on real scores. Swapping candidate and baseline at random in each row makes the true difference known."""
    generator = np.random.default_rng(4)
    write_line(f"{options.trials:,} trials per value: real scores, randomly swapped in each row.\n")
    table_head("suite", "rows", "coverage", "coverage, relative", "promoted: equal", "worse by the margin", "worse by the relative margin")
    for suite in ("target", "retention"):
        candidate, baseline = (read(path, suite) for path in (options.candidate, options.baseline))
        if candidate.ids != baseline.ids or not candidate.ids:
            sys.exit(f"The files have no rows of the {suite} suite, or different rows.")
        swap = functools.partial(swap_rows, generator, candidate, baseline)
        rates = tally("paired_bootstrap", ((swap(), swap(absolute=ABSOLUTE), swap(relative=RELATIVE)) for _ in range(options.trials)))
        shares = (rates.covered, rates.relative_covered, rates.equal_promoted, rates.absolute_promoted, rates.relative_promoted)
        table_row(suite, f"{len(candidate.ids):,}", *map(percent, shares))


def swap_rows(generator: np.random.Generator, candidate: Rows, baseline: Rows, absolute: float = 0.0, relative: float = 0.0) -> Evidence:
    """Make evidence of a candidate that is equal to the baseline on average, and then worse by the arguments."""
    swap = generator.integers(0, 2, len(candidate.ids)) == 1
    scores, other_scores = candidate.columns["nll"], baseline.columns["nll"]
    one, other = np.where(swap, scores, other_scores), np.where(swap, other_scores, scores)
    return evidence(candidate.tokens, one * (1 + relative) + absolute * candidate.tokens, other)


def read(path: Path, suite: str) -> Rows:
    """Read one suite's rows with scored tokens from a score file in ``run/evaluate/``."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return Rows.of(row for row in rows if row["suite"] == suite and row["tokens"])


def rule(**fields: Any) -> Rule:
    """Make a rule for target.nll compared with the base model."""
    settings = {"metric": "target.nll", "direction": "lower", "baseline": "base", "test": "paired_bootstrap", **fields}
    return Rule.model_validate(settings)


def map_cells(options: argparse.Namespace, function: Callable[[Cell], Any], cells: Sequence[Cell]) -> Iterable[Any]:
    """Apply the function to all cells in parallel and yield the results in order."""
    with ProcessPoolExecutor(options.workers) as pool:
        yield from pool.map(function, cells)


def percent(share: float) -> str:
    """Format a share as a percentage with one decimal."""
    return f"{share:.1%}".replace("%", " %")


def table_head(*names: str) -> None:
    """Write the header of a Markdown table."""
    table_row(*names)
    write_line("|" + "---|" * len(names))


def table_row(*cells: str) -> None:
    """Write a row of a Markdown table."""
    write_line(f"| {' | '.join(cells)} |")


def write_line(line: str) -> None:
    """Write a line to standard output and flush it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
