"""Write the pipeline's result to the pull request, as one comment that is updated in place, and to the workflow run's page.

mlops comment --pull-request 12
mlops comment --summary-only
"""

from __future__ import annotations

from collections.abc import Sequence

from mlops.cli import plan, stage
from mlops.core import console
from mlops.core.errors import GitHubRefused
from mlops.core.run import Run
from mlops.github.client import Repository, run_url
from mlops.report.comment import MARKER, text

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = stage.parser(__doc__ or "", prog="mlops comment")
    parser.add_argument("--pull-request", type=int, metavar="NUMBER", help="the pull request to comment on")
    parser.add_argument("--summary-only", action="store_true", help="write only to the workflow run's page")
    arguments = parser.parse_args(argv)
    if (arguments.pull_request is None) == (not arguments.summary_only):
        parser.error("use either --pull-request NUMBER or --summary-only")

    def comment() -> int:
        run = Run(arguments.run)
        document = plan.read(run)
        markdown = text(run, planned=bool(document), workflow_run=str(document.get("workflow_run") or run_url()))
        console.summary(markdown)
        if arguments.pull_request is None:
            return 0
        try:
            url = Repository().update_comment(arguments.pull_request, MARKER, markdown)
        except GitHubRefused as problem:
            # Not a failure: the verdict is on the workflow run's page.
            console.warning(f"No comment on pull request {arguments.pull_request}: {problem}")
        else:
            console.info(f"  {url}")
        return 0

    return stage.guarded(comment)
