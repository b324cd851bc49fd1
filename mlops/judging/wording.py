"""Rules and figures in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["demand", "describe", "number", "percent"]


def number(value: float | None) -> str:
    """Four significant digits, and a plain dash for what is not known."""
    return "–" if value is None else f"{value:.4g}"


def percent(fraction: float) -> str:
    """A fraction as percent, without needless digits."""
    return f"{fraction * 100:.4g} %"


def demand(rule: Rule, role: str) -> str:
    """What the rule asks of the candidate, e.g. ``at most 2 % worse than the base``."""
    asked = []
    if role != "none":
        amount = percent(abs(rule.margin)) if rule.margin_kind == "relative" else number(abs(rule.margin))
        if rule.margin > 0:
            asked.append(f"at most {amount} worse than the {role}")
        elif rule.margin < 0:
            asked.append(f"at least {amount} better than the {role}")
        else:
            asked.append(f"not worse than the {role}")
    if rule.floor is not None:
        asked.append(f"at least {number(rule.floor)}")
    if rule.ceiling is not None:
        asked.append(f"at most {number(rule.ceiling)}")
    return " and ".join(asked) or "nothing"


def describe(rule: Rule) -> str:
    """A rule's name, e.g. ``target.nll: at most 2 % worse than the champion``."""
    return f"{rule.metric}: {demand(rule, rule.baseline)}"
