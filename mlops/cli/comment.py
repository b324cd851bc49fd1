"""Write the pipeline's result to the pull request, as one comment that is updated in place, and to the workflow run's page.

mlops comment --pull-request 12
mlops comment --summary-only
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlops.cli import plan, stage
from mlops.core import console
from mlops.core.config import load, targets
from mlops.core.errors import ConfigError, GitHubRefused, UsageError
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.github.client import Repository, run_url
from mlops.report import rule_changes
from mlops.report.comment import MARKER, text

__all__ = ["main"]

BASE = "GITHUB_BASE_REF"
"""Environment variable with the target branch of a pull request; GitHub sets it."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = stage.parser(__doc__ or "", prog="mlops comment")
    parser.add_argument("--pull-request", type=int, metavar="NUMBER", help="the pull request to comment on")
    parser.add_argument("--summary-only", action="store_true", help="write only to the workflow run's page")
    arguments = parser.parse_args(argv)
    if (arguments.pull_request is None) == (not arguments.summary_only):
        parser.error("use either --pull-request NUMBER or --summary-only")

    def comment() -> dict[str, str]:
        run = Run(arguments.run)
        document = plan.read(run)
        changes = _rule_changes(arguments.config)
        markdown = text(run, planned=bool(document), workflow_run=str(document.get("workflow_run") or run_url()), changes=changes)
        console.summary(markdown)
        if arguments.pull_request is None:
            return {"markdown": markdown, "url": ""}
        url = ""
        try:
            url = Repository().update_comment(arguments.pull_request, MARKER, markdown)
        except GitHubRefused as problem:
            # Not a failure: the verdict is on the workflow run's page.
            console.warning(f"No comment on pull request {arguments.pull_request}: {problem}")
        else:
            console.info(f"  {url}")
        return {"markdown": markdown, "url": url}

    return stage.finish(comment, as_json=arguments.json)


def _rule_changes(file: Path) -> str:
    """Describe what a pull request changes in the settings that affect its verdict; empty outside a pull request, or without a token.

    A fork's pull request has no token: it contacts nothing outside its runner.
    """
    branch = os.environ.get(BASE, "")
    if not branch or not os.environ.get("GITHUB_TOKEN"):
        return ""
    try:
        before = Repository().read_file(file.name, branch)
        if before is None:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file.name
            path.write_text(before, encoding="utf-8")
            return rule_changes.render(rule_changes.compare(_load_targets(path), _load_targets(file)), branch)
    except (GitHubRefused, UsageError, ConfigError) as problem:
        return f"> [!WARNING]\n> The settings of this pull request can't be compared with those of `{branch}`: {problem.what}"


def _load_targets(path: Path) -> dict[str, Config]:
    """Load every target of a file, without overrides."""
    return {target: load(path, target, environment={}) for target in targets(path)}
