"""Finds what a pull request changes in the settings that affect its own verdict, compared with its target branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlops.core.settings import Config
from mlops.report.markdown import table

__all__ = ["Change", "compare", "render"]

Effect = Literal["weaker", "may be weaker", "stricter"]
_SECTIONS = ("gate", "evaluation", "data")
_LESS_IS_STRICTER = ("margin", "max_gain", "ceiling", "max_share")
_MORE_IS_STRICTER = (
    "floor", "confidence", "min_rows", "critical", "enabled", "correct_retries", "target_rows", "retention_rows", "generate_rows",
    "task_rows", "max_tokens", "max_new_tokens", "min_agreement",
)  # fmt: skip
_NO_LIMIT = {"retention_rows": float("inf")}
"""The number that a missing value stands for where more is stricter: all rows. Elsewhere, a missing value is no requirement."""


@dataclass(frozen=True)
class Change:
    """One setting, before and after; ``None`` where it does not exist."""

    target: str
    key: str
    before: Any
    after: Any
    is_new_target: bool = False

    @property
    def effect(self) -> Effect:
        """The effect on the verdict. A change that isn't known to be stricter may be weaker."""
        name = self.key.rpartition(".")[2]
        if self.is_new_target or (self.key.startswith("gate.rules.") and self.before is None):
            return "stricter"  # a new target only judges itself, and a new rule or limit can only stop more
        if self.key.startswith("gate.rules.") and self.after is None:
            return "weaker"
        if name in _LESS_IS_STRICTER:
            return "stricter" if self.after < self.before else "weaker"
        if name in _MORE_IS_STRICTER:
            before, after = (_NO_LIMIT.get(name, float("-inf")) if value is None else float(value) for value in (self.before, self.after))
            return "stricter" if after > before else "weaker"
        if self.key == "endpoint.ephemeral":  # a HOLD can only be overridden without approval if the endpoint is ephemeral
            return "weaker" if self.after else "stricter"
        # Any test is more than two numbers, and a comparison more than a bound. Which of two tests or models is stricter is unknown.
        return "stricter" if name in ("test", "baseline") and self.before == "none" else "may be weaker"

    @property
    def is_weaker(self) -> bool:
        """Whether the gate may let more through than before."""
        return self.effect != "stricter"


def compare(before: Mapping[str, Config], after: Mapping[str, Config]) -> list[Change]:
    """Return the changes of all targets, in the order of the file.

    Args:
        before: target → settings on the branch.
        after: target → settings in the pull request.
    """
    changes = []
    for target in (*after, *(target for target in before if target not in after)):
        old, new = (dict(_flatten(configs[target])) if target in configs else {} for configs in (before, after))
        for key in (*new, *(key for key in old if key not in new)):
            if old.get(key) != new.get(key):
                changes.append(Change(target, key, old.get(key), new.get(key), is_new_target=target not in before))
    return changes


def render(changes: list[Change], branch: str) -> str:
    """Render the changes for the top of the comment; empty if there are none."""
    if not changes:
        return ""
    weaker = [change for change in changes if change.is_weaker]
    if weaker:
        verb = "weakens" if any(change.effect == "weaker" for change in weaker) else "may weaken"
        title = f"This pull request **{verb} the rules that judge it** ({len(weaker)} of {len(changes)} changes against `{branch}`)."
    else:
        title = f"This pull request changes settings that affect its own verdict; all become stricter ({len(changes)} against `{branch}`)."
    rows = [
        (change.target, f"`{change.key}`", _show(change.before), _show(change.after), f"⚠️ {change.effect}" if change.is_weaker else "")
        for change in (*weaker, *(change for change in changes if not change.is_weaker))
    ]
    return f"> [!WARNING]\n> {title}\n\n" + table(("target", "setting", branch, "here", ""), rows)


def _flatten(config: Config) -> Iterator[tuple[str, Any]]:
    for section in _SECTIONS:
        yield from _leaves(section, getattr(config, section).model_dump(mode="json"))
    yield "endpoint.ephemeral", config.endpoint.ephemeral


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(f"{key}.{name}", part)
    else:
        yield key, value


def _show(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
