"""Sample questions with the answers before and after training."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.core.records import Evaluated

__all__ = ["Exchange", "exchanges"]


@dataclass(frozen=True)
class Exchange:
    """One question, with the answer of the current model and of the candidate."""

    prompt: str
    before: str
    after: str


def exchanges(evaluated: Evaluated | None) -> tuple[str, list[Exchange]]:
    """Return the current model (``champion``, else ``base``) and every question that both models answered, changed answers first."""
    models = evaluated.models if evaluated else {}
    current = "champion" if "champion" in models else "base"
    if current not in models or "candidate" not in models:
        return current, []
    before = {sample.prompt: sample.answer for sample in models[current].samples}
    both = [
        Exchange(sample.prompt, before[sample.prompt], sample.answer) for sample in models["candidate"].samples if sample.prompt in before
    ]
    return current, sorted(both, key=lambda exchange: exchange.before == exchange.after)
