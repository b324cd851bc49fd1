"""Rules and metric values in plain words."""

from __future__ import annotations

from mlops.core.settings import Rule

__all__ = ["describe", "describe_requirement", "hidden_share", "number", "percent"]


def number(value: float | None) -> str:
    """Format a number with four significant digits, and None as a dash."""
    return "–" if value is None else f"{value:.4g}"


def percent(fraction: float) -> str:
    """Format a fraction as a percentage with four significant digits."""
    return f"{fraction * 100:.4g} %"


def describe_requirement(rule: Rule, role: str) -> str:
    """Describe what the rule requires of the candidate, e.g. ``at most 2 % worse than the base``."""
    requirements = []
    if role != "none":
        amount = percent(abs(rule.margin)) if rule.margin_kind == "relative" else number(abs(rule.margin))
        if rule.max_share is not None:
            requirements.append(f"worse than the {role} by more than {amount} in at most {percent(rule.max_share)} of the rows")
        elif rule.margin > 0:
            requirements.append(f"at most {amount} worse than the {role}")
        elif rule.margin < 0:
            requirements.append(f"at least {amount} better than the {role}")
        else:
            requirements.append(f"not worse than the {role}")
    if rule.floor is not None:
        requirements.append(f"at least {number(rule.floor)}")
    if rule.ceiling is not None:
        requirements.append(f"at most {number(rule.ceiling)}")
    return " and ".join(requirements) or "nothing"


def hidden_share(rows: int | None) -> str:
    """Return the share of faulty rows that this many rows can miss: the rule of three, a 95 % upper bound if none is seen."""
    if not rows:
        return "–"
    return percent(min(1.0, 3 / rows)) if rows > 3 else "100 %"


def describe(rule: Rule) -> str:
    """Describe a rule, e.g. ``target.nll: at most 2 % worse than the champion``."""
    return f"{rule.metric}: {describe_requirement(rule, rule.baseline)}"
