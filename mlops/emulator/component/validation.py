"""Step 1, ``ft_nlp_common_validation``: writes that validation is complete, as Azure's own step does."""

from __future__ import annotations

from mlops.core import console
from mlops.emulator.component.step import Step

__all__ = ["run"]


def run(step: Step) -> None:
    """Write the fixed text of this step."""
    path = step.output("validation_info")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("Validation Completed", encoding="utf-8")
    console.info("Validation Completed")
