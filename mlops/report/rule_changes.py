"""What a pull request changes in the settings that decide its own verdict, compared with the branch that it is to be merged into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlops.core.settings import Config
from mlops.report.markdown import table

__all__ = ["Change", "compare", "render"]

_SECTIONS = ("gate", "evaluation", "data")
_MORE_IS_WEAKER = ("margin", "max_gain", "ceiling")
_LESS_IS_WEAKER = ("floor", "confidence", "min_rows", "critical", "enabled", "target_rows", "retention_rows", "generate_rows", "task_rows")


@dataclass(frozen=True)
class Change:
    """One setting, before and after; ``None`` where it does not exist."""

    target: str
    key: str
    before: Any
    after: Any

    @property
    def is_weaker(self) -> bool:
        """Whether the gate lets through more than before."""
        name = self.key.rpartition(".")[2]
        if name in _MORE_IS_WEAKER:
            # No limit is the weakest one. A margin always has a value, unless the whole rule was removed.
            return self.before is not None and (self.after is None or self.after > self.before)
        if name in _LESS_IS_WEAKER:
            # All rows are more than any number of them.
            is_all = name == "retention_rows" and self.after is None
            return not is_all and (self.before is not None or name == "retention_rows") and _rank(self.after) < _rank(self.before, name)
        return self.key.startswith("gate.rules.") and self.after is None and self.before is not None and name == "metric"


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
                changes.append(Change(target, key, old.get(key), new.get(key)))
    return changes


def render(changes: list[Change], branch: str) -> str:
    """Render the changes for the top of the comment; empty if there are none."""
    if not changes:
        return ""
    weaker = [change for change in changes if change.is_weaker]
    if weaker:
        title = f"This pull request **weakens the rules that judge it** ({len(weaker)} of {len(changes)} changes against `{branch}`)."
    else:
        title = f"This pull request changes settings that decide its own verdict ({len(changes)} against `{branch}`)."
    rows = [
        (change.target, f"`{change.key}`", _show(change.before), _show(change.after), "⚠️ weaker" if change.is_weaker else "")
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


def _rank(value: Any, name: str = "") -> float:
    if value is None:
        return float("inf") if name == "retention_rows" else float("-inf")
    return float(value)


def _show(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
