"""Pull requests without an identity: everything runs offline, no outside host is contacted, and the output says so."""

from __future__ import annotations

from mlops.emulator import github_api
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness


def test_a_fork_runs_everything_offline_and_says_so(repository: Harness, emulator: Emulator) -> None:
    fork = repository.pull_request(13, fork=True)
    assert fork.jobs == {"offline": "success"}, fork.trouble
    assert "offline, on the emulator" in fork.summary
    assert "PROMOTE" in fork.summary
    assert github_api.comments(emulator.azure, 13) == [], "a fork's token may not write"
    assert emulator.contacted_hosts == {}, "a fork contacted a host outside its own emulator"
    assert repository.jobs() == {}


def test_without_azure_variables_it_runs_offline_too_and_the_comment_says_so(repository: Harness, emulator: Emulator) -> None:
    """A missing suite cuts the run short; the test of the fork shows a whole run."""
    repository.configure((r"^target_rows", 'retention_suite = "data/nothing.jsonl"\ntarget_rows'))
    before = set(emulator.contacted_hosts)
    stopped = repository.pull_request(14, configured=False)
    assert stopped.jobs == {"offline": "failure", "comment": "success"}, stopped.trouble
    (comment,) = github_api.comments(emulator.azure, 14)
    assert "## ❌ validate failed" in comment["body"]
    assert "data/nothing.jsonl" in comment["body"]
    assert "**offline, on the emulator**" in comment["body"]
    assert set(emulator.contacted_hosts) - before <= {"api.github.com"}
