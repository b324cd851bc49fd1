"""How often the gate is wrong, what it can see, and how fast it is, on scores of which the truth is known.

    python -m benchmarks.gate coverage [--test wilcoxon] [--trials 2000] [--rows 100 200] [--workers 2]
    python -m benchmarks.gate methods
    python -m benchmarks.gate power
    python -m benchmarks.gate real RUN/evaluate/candidate.jsonl RUN/evaluate/base.jsonl
    python -m benchmarks.gate speed

Every judgement is made by :func:`mlops.judging.rules.answer`, faults and all. Each command prints a markdown table; the random numbers
are the same in every run. What the scores are drawn from is told in gate_pairs.py.
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
from benchmarks.gate_methods import METHODS, missed
from benchmarks.gate_pairs import NOISES, Cell, evidence, pair
from mlops.core.config import Rule
from mlops.core.records import Interval, Outcome
from mlops.judging.evidence import Evidence, Rows
from mlops.judging.rules import answer

ABSOLUTE, RELATIVE = 0.1, 0.05
"""The margins: nats per token, and a fraction of the baseline's."""
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
            command.add_argument("--rows", type=int, nargs="*", help="to hold against scipy; 100,000 take it minutes")
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
    """Shares of the trials."""

    covered: float
    """The interval of the difference holds the true one."""
    relative_covered: float
    """The interval of the distance from a relative margin holds the true one, which is 0."""
    equal_promoted: float
    absolute_promoted: float
    relative_promoted: float


def coverage(options: argparse.Namespace) -> None:
    """How often intervals hold the truth, and how often a candidate that is no better, or worse by the margin, is promoted."""
    bootstrap = options.test == "paired_bootstrap"
    cells = [Cell(rows, noise) for rows in options.rows for noise in (NOISES if bootstrap else ("light", "heavy", "spikes"))]
    # What changes with lengths and correlation is seen where rows are few, and gone where they are many.
    if bootstrap and FEWEST in options.rows:
        cells += [Cell(FEWEST, noise, lengths=lengths) for noise in NOISES for lengths in (0.0, 1.0)]
        cells += [Cell(FEWEST, noise, correlation=correlation) for noise in NOISES for correlation in (0.5, 0.99)]
    cells.sort(key=lambda cell: (cell.rows, NOISES.index(cell.noise), cell.lengths, cell.correlation))
    tell(f"{options.test}, {options.trials:,} trials a figure, {percent(0.95)} intervals, each side at 2.5 %.\n")
    heads = ("rows", "noise", "log-sd of lengths", "correlation", "coverage", "coverage, relative")
    table_head(*heads, "promoted: equal", "worse by the margin", "worse by the relative margin")
    for cell, tally in zip(cells, mapped(options, functools.partial(tallied, options.test, options.trials), cells), strict=True):
        shares = (tally.covered, tally.relative_covered, tally.equal_promoted, tally.absolute_promoted, tally.relative_promoted)
        table_row(f"{cell.rows:,}", cell.noise, f"{cell.lengths:g}", f"{cell.correlation:g}", *map(percent, shares))


def tallied(test: str, trials: int, cell: Cell) -> Tally:
    """Of pairs drawn from a cell."""
    draw = functools.partial(pair, cell, cell.generator(1))
    return tally(test, ((draw(), draw(worse=ABSOLUTE), draw(worse=RELATIVE, relative=True)) for _ in range(trials)))


def tally(test: str, trials: Iterable[tuple[Evidence, Evidence, Evidence]]) -> Tally:
    """Of pairs that are equal, worse by the absolute margin, and worse by the relative margin."""
    ask = functools.partial(rule, test=test)
    rules = (ask(), ask(margin=ABSOLUTE, margin_kind="absolute"), ask(margin=RELATIVE))
    seen = []
    for pairs in trials:
        equal, absolute, relative = (answer(*asked) for asked in zip(rules, pairs, strict=True))
        covered = (holds(equal.interval, 0.0) + holds(absolute.interval, ABSOLUTE)) / 2
        shown = [judgement.outcome is Outcome.SHOWN for judgement in (equal, absolute, relative)]
        seen.append((covered, holds(relative.distance_interval, 0.0), *shown))
    return Tally(*np.array(seen, dtype=float).mean(axis=0).tolist())


def holds(interval: Interval | None, truth: float) -> bool:
    """Whether the truth is inside. No interval is one without ends."""
    return interval is None or interval.low <= truth <= interval.high


def methods(options: argparse.Namespace) -> None:
    """The gate's interval beside the usual ones: how often each holds the truth, and how often it lies above and below."""
    cells = [Cell(rows, noise, lengths) for rows in (FEWEST, 5 * FEWEST) for noise in NOISES for lengths in (0.6, 1.0)]
    tell(f"Coverage (intervals above the truth, below it); {options.trials:,} trials a figure, {percent(0.95)} intervals.\n")
    table_head("rows", "noise", "log-sd of lengths", *METHODS)
    for cell, shares in zip(cells, mapped(options, functools.partial(missed, options.trials), cells), strict=True):
        told = [f"{percent(1 - above - below)} ({percent(above)}, {percent(below)})" for above, below in shares.tolist()]
        table_row(f"{cell.rows:,}", cell.noise, f"{cell.lengths:g}", *told)


# Power


def power(options: argparse.Namespace) -> None:
    """How often a candidate that is better is shown to be, by how much better it is; the minimum detectable effect beside it."""
    cells = [Cell(rows, noise) for noise in ("light", "spikes") for rows in ROWS]
    tell(f"Rule: not worse than the base (margin 0, {percent(0.95)}). {options.trials:,} trials a figure; correlation 0.9.\n")
    table_head("noise", "rows", "MDE (mean)", *(f"better by {percent(effect)}" for effect in EFFECTS), "better by the MDE")
    for cell, (detectable, rates) in zip(cells, mapped(options, functools.partial(powers, options.trials), cells), strict=True):
        table_row(cell.noise, f"{cell.rows:,}", percent(detectable), *map(percent, rates))


def powers(trials: int, cell: Cell) -> tuple[float, list[float]]:
    """Mean minimum detectable effect as a fraction of the baseline's figure; shares shown for each effect, and for that one."""
    asked = rule()
    sizes: list[float] = []
    for _ in range(200):
        generator = cell.generator(2, len(sizes))
        judgement = answer(asked, pair(cell, generator))
        assert judgement.mde is not None
        assert judgement.reference is not None
        sizes.append(judgement.mde / judgement.reference)
    detectable = float(np.mean(sizes))
    rates = []
    for place, effect in enumerate((*EFFECTS, detectable)):
        generator = cell.generator(3, place)
        judged = (answer(asked, pair(cell, generator, worse=-effect, relative=True)) for _ in range(trials))
        rates.append(sum(judgement.outcome is Outcome.SHOWN for judgement in judged) / trials)
    return detectable, rates


# Real scores


def real(options: argparse.Namespace) -> None:
    """The same rates on real scores, of which the truth is made: at random per row, candidate and baseline swap places."""
    generator = np.random.default_rng(4)
    tell(f"{options.trials:,} trials a figure: real scores, swapped at random row by row.\n")
    table_head("suite", "rows", "coverage", "coverage, relative", "promoted: equal", "worse by the margin", "worse by the relative margin")
    for suite in ("target", "retention"):
        candidate, baseline = (read(path, suite) for path in (options.candidate, options.baseline))
        if candidate.ids != baseline.ids or not candidate.ids:
            sys.exit(f"The files have no rows of the {suite} suite, or not the same ones.")
        swap = functools.partial(swapped, generator, candidate, baseline)
        found = tally("paired_bootstrap", ((swap(), swap(absolute=ABSOLUTE), swap(relative=RELATIVE)) for _ in range(options.trials)))
        shares = (found.covered, found.relative_covered, found.equal_promoted, found.absolute_promoted, found.relative_promoted)
        table_row(suite, f"{len(candidate.ids):,}", *map(percent, shares))


def swapped(generator: np.random.Generator, candidate: Rows, baseline: Rows, absolute: float = 0.0, relative: float = 0.0) -> Evidence:
    """Equal on average, and then worse by so much."""
    swap = generator.integers(0, 2, len(candidate.ids)) == 1
    one, other = np.where(swap, candidate.nll, baseline.nll), np.where(swap, baseline.nll, candidate.nll)
    return evidence(candidate.tokens, one * (1 + relative) + absolute * candidate.tokens, other)


def read(path: Path, suite: str) -> Rows:
    """One suite's rows with tokens, from a scores file of ``run/evaluate/``."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return Rows.of(row for row in rows if row["suite"] == suite and row["tokens"])


def rule(**fields: Any) -> Rule:
    """On target.nll against the base model."""
    given = {"metric": "target.nll", "direction": "lower", "baseline": "base", "test": "paired_bootstrap", **fields}
    return Rule.model_validate(given)


def mapped(options: argparse.Namespace, function: Callable[[Cell], Any], cells: Sequence[Cell]) -> Iterable[Any]:
    """In order, as they are done."""
    with ProcessPoolExecutor(options.workers) as pool:
        yield from pool.map(function, cells)


def percent(share: float) -> str:
    """With one decimal."""
    return f"{share:.1%}".replace("%", " %")


def table_head(*names: str) -> None:
    """The first two lines of a markdown table."""
    table_row(*names)
    tell("|" + "---|" * len(names))


def table_row(*cells: str) -> None:
    """One line of it."""
    tell(f"| {' | '.join(cells)} |")


def tell(line: str) -> None:
    """On standard output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
