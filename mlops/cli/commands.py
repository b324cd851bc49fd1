"""The commands, and the functions that implement them. A module is only imported when its command runs, so that others stay fast."""

from __future__ import annotations

from mlops.cli.run import STAGES

__all__ = ["COMMANDS"]

COMMANDS = {
    **{name: (f"mlops.{name.replace('-', '_')}", "main") for name in STAGES},
    "evaluate-gate": ("mlops.cli.run", "evaluate_gate"),
    "schema": ("mlops.cli.show", "schema"),
    **{
        name: (f"mlops.cli.{name}", "main")
        for name in (
            "run",
            "show",
            "rollback",
            "recover",
            "costs",
            "resume",
            "reap",
            "init",
            "data",
            "plan",
            "comment",
            "roles",
            "completion",
        )
    },
}
"""Command → its module and function."""
