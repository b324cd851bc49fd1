"""Questions with the answers before and after: what a person judges a model by."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.core.records import Evaluated

__all__ = ["Exchange", "exchanges"]


@dataclass(frozen=True)
class Exchange:
    """One question, what is served now and what would be."""

    prompt: str
    before: str
    after: str


def exchanges(evaluated: Evaluated | None) -> tuple[str, list[Exchange]]:
    """Who answered before (``champion``, else ``base``), and every question that both were asked, those with another answer first."""
    models = evaluated.models if evaluated else {}
    old = "champion" if "champion" in models else "base"
    if old not in models or "candidate" not in models:
        return old, []
    before = {sample.prompt: sample.answer for sample in models[old].samples}
    asked = [
        Exchange(sample.prompt, before[sample.prompt], sample.answer) for sample in models["candidate"].samples if sample.prompt in before
    ]
    return old, sorted(asked, key=lambda exchange: exchange.before == exchange.after)
