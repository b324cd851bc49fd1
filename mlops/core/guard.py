"""The lock on everything behind the gate."""

from __future__ import annotations

from mlops.core.errors import NotPromoted
from mlops.core.records import Judged, Verdict
from mlops.core.run import Run

__all__ = ["promoted"]


def promoted(run: Run) -> Judged:
    """The gate's record, if it says PROMOTE. Every stage behind the gate reads it again, so that wrong YAML can't open the gate.

    Raises:
        NotPromoted: the verdict is another one.
        RecordError: there is no verdict, or it is about something else than what is in the run directory now.
    """
    judged = run.read(Judged)
    if judged.verdict is not Verdict.PROMOTE:
        raise NotPromoted(
            f"The gate says {judged.verdict}, so nothing is registered, deployed or promoted. {' '.join(judged.reasons)}",
            "train a better model; `mlops show` tells what the gate has seen",
        )
    return judged
