"""A probe of the self-test before its result is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from mlops.core.judgement import Probe
from mlops.judging.selftest.checks import RuleCase

__all__ = ["Draft"]


@dataclass(frozen=True)
class Draft:
    """A probe without its result."""

    name: str
    mutation: str
    expected: str

    def judged(self, actual: str, problem: str) -> Probe:
        """Return it as detected, or as missed if there is a problem."""
        return self._with(problem or actual, "missed" if problem else "detected")

    def not_planted(self, why: str) -> Probe:
        """Return it as not applicable, because the evidence can't be changed like this."""
        return self._with(f"can't be planted: {why}", "not applicable")

    def not_applicable(self, dependent: Collection[RuleCase]) -> Probe:
        """Return it as not applicable: no rule depends on it, or none that does has valid evidence."""
        why = "the rules that depend on it have no valid evidence even without it" if dependent else "no critical rule depends on it"
        return self._with(why, "not applicable")

    def _with(self, actual: str, result: Literal["detected", "missed", "not applicable"]) -> Probe:
        return Probe(name=self.name, mutation=self.mutation, expected=self.expected, actual=actual, result=result)
