"""Measures how often a judge model prefers a model's generated answers to the base model's, row by row.

All models are compared with the base model, so each has its own value per row, and the gate compares candidate and
champion as it does for any other metric. Preferences are stored in the run directory and not requested twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.cloud.judge_model import INSTRUCTIONS, JudgeModel, Pair, agreement, read_labeled_pairs
from mlops.core import console
from mlops.core.errors import ConfigError
from mlops.core.run import write_atomically
from mlops.core.settings import JudgeConfig

__all__ = ["COLUMN", "METRIC", "Preferences", "collect_preferences", "judge_digest"]

COLUMN = "judge_win"
"""The field that is added to the rows of scores.jsonl."""
METRIC = "target.judge_win"
_TIE = 0.5

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Preferences:
    """The judge's preferences about the models."""

    by_role: Mapping[str, Mapping[str, float]]
    """Role → row id → 1 if the judge prefers its answer to the base model's, 0 if not, 0.5 if neither; empty if it can't be trusted."""
    note: str
    """How well the judge agrees with the labels."""

    def mean(self, role: str) -> float | None:
        """Return the metric value of a model; None without preferences."""
        values = self.by_role.get(role, {}).values()
        return math.fsum(values) / len(values) if values else None


def judge_digest(settings: JudgeConfig) -> str:
    """Return the sha256 over everything that determines what the judge says; an empty string without a judge."""
    if not settings.url:
        return ""
    if not settings.model:
        raise ConfigError("evaluation.judge.url is set, but evaluation.judge.model is not.", "set evaluation.judge.model")
    path = Path(settings.labeled_pairs)
    labels = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return _digest(settings.model_dump(mode="json"), labels, INSTRUCTIONS)


def collect_preferences(settings: JudgeConfig, credential: Any, suite: Path, rows: Mapping[str, Rows], store: Path) -> Preferences:
    """Let the judge compare the answers of every model, unless its preferences are stored. It is calibrated first.

    Args:
        settings: of the judge.
        credential: for a judge of Azure OpenAI.
        suite: the frozen target suite.
        rows: role → rows of scores.jsonl.
        store: JSON Lines of preferences; created, and extended after each model.

    Raises:
        ConfigError: the key, the model or the labeled pairs are missing.
        AzureError: the endpoint refuses or does not respond.
        EvidenceError: its replies aren't preferences.
    """
    judge = _CachedJudge(settings, JudgeModel(settings, credential), store)
    measured = agreement(judge.compare(read_labeled_pairs(Path(settings.labeled_pairs)), "labeled pairs"))
    note = (
        f"The judge {settings.model} agrees with {measured.right} of {measured.pairs} labels, which shows at least {measured.low:.0%};"
        f" {settings.min_agreement:.0%} are required."
    )
    if measured.low < settings.min_agreement:
        return Preferences({}, f"{note} So {METRIC} is not measured.")
    conversations = _read_conversations(suite)
    answers = {role: _answers(role_rows, conversations) for role, role_rows in rows.items()}
    base = dict(list(answers["base"].items())[: settings.rows])
    by_role = {"base": dict.fromkeys(base, _TIE)}
    for role in sorted(answers.keys() - {"base"}):
        compared = [row for row in base if row in answers[role]]
        pairs = [Pair(conversations[row], answers[role][row], base[row]) for row in compared]
        by_role[role] = dict(zip(compared, judge.compare(pairs, f"answers of the {role}"), strict=True))
    return Preferences(by_role, note)


class _CachedJudge:
    """The judge, and its stored preferences."""

    def __init__(self, settings: JudgeConfig, judge: JudgeModel, store: Path) -> None:
        self._settings, self._judge, self._store = settings, judge, store
        try:
            lines = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()] if store.is_file() else []
            self._preferences = {str(line["pair"]): float(line["score"]) for line in lines}
        except (ValueError, KeyError, TypeError):
            console.warning(f"{store} can't be read, so the judge compares the answers again.")
            self._preferences = {}

    def compare(self, pairs: Sequence[Pair], what: str) -> list[float]:
        """Return the preference for each pair, and store new ones."""
        keys = [_digest(self._settings.url, self._settings.model, INSTRUCTIONS, *vars(pair).values()) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._preferences}
        if new:
            with console.Progress(f"{what} judged", len(new)) as progress:
                scores = self._judge.compare(list(new.values()), lambda _: progress.advance())
            self._preferences |= dict(zip(new, scores, strict=True))
            text = "".join(json.dumps({"pair": key, "score": score}) + "\n" for key, score in self._preferences.items())
            write_atomically(self._store, text.encode())
        return [self._preferences[key] for key in keys]


def _read_conversations(suite: Path) -> dict[str, str]:
    """Return the row id → what the answer is an answer to: the turns before the last of the assistant."""
    conversations = {}
    for line in suite.read_bytes().split(b"\n"):
        if line:
            row = json.loads(line)
            last = max(number for number, message in enumerate(row["messages"]) if message["role"] == "assistant")
            turns = [f"{message['role']}: {message['content']}" for message in row["messages"][:last]]
            conversations[str(row["prompt_id"])] = "\n\n".join(turns)
    return conversations


def _answers(rows: Rows, conversations: Mapping[str, str]) -> dict[str, str]:
    """Return the generated answers to the target suite, by row id."""
    return {
        str(row["id"]): str(row["answer"])
        for row in rows
        if row["suite"] == "target" and row.get("answer") is not None and str(row["id"]) in conversations
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
