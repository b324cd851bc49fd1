"""Check a stored verdict by judging the same evidence again.

A record says what somebody wrote into it. The true verdict follows from the evidence, the rules and the settings, so a stage that relies on
it derives it again, self-test included, and compares every field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from mlops.core.errors import EvidenceError, NotPromoted, SelfTestFailed
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.judging.judge import judge

__all__ = ["check_verdict"]

_NOT_DERIVED = {"created_at", "files", "override", "override_refused"}
"""Fields that don't follow from the evidence. The stage that accepts an override checks who approved it."""
_TOLERANCE = 1e-3
"""Relative difference of numbers. Another processor may round sums of a bootstrap differently."""
_TEXTS = re.compile(r"(reasons|notes)\[\d+\]|judgements\[\d+\]\.reason|self_test\[\d+\]\.\w+")
"""Fields that are sentences, in which numbers are rounded. All other texts (ids, digests, names) must be equal."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def check_verdict(config: Config, run: Run, judged: Judged) -> None:
    """Judge the evidence in the run directory again, and compare the result with the record.

    Raises:
        NotPromoted: the record is not what these rules say about this evidence. Says which fields differ.
        ConfigError, RecordError, EvidenceError: as :func:`mlops.judging.judge.judge`.
    """
    try:
        replayed = judge(config, run)
    except (EvidenceError, SelfTestFailed) as problem:
        raise NotPromoted(f"The verdict can't be derived from the evidence: {problem.what}", problem.fix) from problem
    differences = list(_compare("", _select_derived_fields(judged), _select_derived_fields(replayed)))
    if differences:
        raise NotPromoted(
            f"The gate's record does not follow from the evidence, the rules and the settings: {'; '.join(differences[:3])}"
            f"{f' and {len(differences) - 3} more' if len(differences) > 3 else ''}. Nothing was registered, deployed or promoted.",
            f"run `mlops gate --target {config.target}` again, with the same settings in each stage",
        )


def _select_derived_fields(judged: Judged) -> dict[str, Any]:
    return judged.model_dump(mode="json", exclude=_NOT_DERIVED)


def _compare(name: str, stored: Any, derived: Any) -> Iterator[str]:
    """Yield where two values differ by more than rounding."""
    if isinstance(stored, dict) and isinstance(derived, dict):
        for key in sorted(stored.keys() | derived.keys()):
            yield from _compare(f"{name}.{key}".lstrip("."), stored.get(key), derived.get(key))
    elif isinstance(stored, list) and isinstance(derived, list) and len(stored) == len(derived):
        for number, (one, other) in enumerate(zip(stored, derived, strict=True)):
            yield from _compare(f"{name}[{number}]", one, other)
    elif not _agree(stored, derived, is_text=_TEXTS.fullmatch(name) is not None):
        yield f"{name} is {_shorten(stored)}, but {_shorten(derived)} follows"


def _agree(stored: Any, derived: Any, *, is_text: bool) -> bool:
    if isinstance(stored, bool) or isinstance(derived, bool) or type(stored) is not type(derived):
        return bool(stored == derived and type(stored) is type(derived))
    if isinstance(stored, float):
        return math.isclose(stored, derived, rel_tol=_TOLERANCE, abs_tol=1e-9) or (math.isnan(stored) and math.isnan(derived))
    if isinstance(stored, str):
        return stored == derived or (is_text and _agree_as_text(stored, derived))
    return bool(stored == derived)


def _agree_as_text(stored: str, derived: str) -> bool:
    """Whether two sentences have the same words, and numbers that differ by rounding only."""
    if _NUMBER.split(stored) != _NUMBER.split(derived):
        return False
    pairs = zip(_NUMBER.findall(stored), _NUMBER.findall(derived), strict=True)
    # Sentences have four significant digits, so rounding can change the last one by more than the tolerance.
    return all(
        math.isclose(float(one.replace(",", "")), float(other.replace(",", "")), rel_tol=10 * _TOLERANCE, abs_tol=1e-9)
        for one, other in pairs
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
