"""Every way this pipeline can stop, each with its own exit code.

The class is the meaning, the exit code is what a workflow reads, the message is for the person who pays::

    MlopsError                      1   something we did not foresee
    ├── Detached                    0   not a failure: the training goes on without us
    ├── UsageError                  2   a command or an option that does not exist
    ├── ConfigError                 2   pipeline.toml or the environment is wrong
    ├── RecordError                 3   a record in run/ is missing, unreadable or out of date
    ├── CredentialError             4   no identity, or Azure does not accept it
    ├── ValidationFailed            5   findings in data, configuration or workspace
    ├── AzureError                  6   the service refused or did not answer as documented
    ├── JobFailed                   7   a job ended as Failed
    ├── JobCanceled                 8   a job was cancelled
    ├── JobStatusUnknown            9   a job stands in a state that is neither running nor done
    ├── Held                       10   the gate says HOLD
    ├── EvidenceError              11   evaluation results are missing or don't fit together
    ├── RegistrationError          12   a model could not be registered
    ├── DeploymentFailed           13   a deployment did not become healthy
    ├── SmokeTestFailed            14   the new deployment's answers are not good enough
    ├── TrafficError               15   traffic is not what it should be
    ├── TeardownIncomplete         16   something of ours still exists
    ├── NotPromoted                17   a stage behind the gate was called, and the gate lets nothing through
    ├── DataError                  18   the data set can't be had, or lacks a split
    ├── SelfTestFailed             19   the gate does not notice what it must notice, so it has judged nothing
    ├── Rejected                   20   the gate says REJECT
    └── GitHubRefused              21   GitHub's REST API answered with an error

An interrupt (Ctrl-C, SIGTERM) ends with 130, as shells expect.
"""

from __future__ import annotations

__all__ = [
    "INTERRUPTED",
    "AzureError",
    "ConfigError",
    "CredentialError",
    "DataError",
    "DeploymentFailed",
    "Detached",
    "EvidenceError",
    "GitHubRefused",
    "Held",
    "JobCanceled",
    "JobFailed",
    "JobStatusUnknown",
    "MlopsError",
    "NotPromoted",
    "RecordError",
    "RegistrationError",
    "Rejected",
    "SelfTestFailed",
    "SmokeTestFailed",
    "TeardownIncomplete",
    "TrafficError",
    "UsageError",
    "ValidationFailed",
]

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""


class MlopsError(Exception):
    """What happened, and what to do about it.

    Args:
        what: what happened and what it means for the user's money and traffic.
        fix: the command or setting that mends it; empty where nothing the user does would.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nFix: {self.fix}" if self.fix else self.what


class Detached(MlopsError):
    """The training goes on without us, as was asked for; whoever runs the command again attaches to it."""

    exit_code = 0


class UsageError(MlopsError):
    """A command or an option that does not exist."""

    exit_code = 2


class ConfigError(MlopsError):
    """pipeline.toml or the environment is wrong."""

    exit_code = 2


class RecordError(MlopsError):
    """A record in run/ is missing, unreadable or out of date."""

    exit_code = 3


class CredentialError(MlopsError):
    """No identity, or Azure does not accept it."""

    exit_code = 4


class ValidationFailed(MlopsError):
    """Findings in data, configuration or workspace."""

    exit_code = 5


class AzureError(MlopsError):
    """The service refused, or did not answer as documented."""

    exit_code = 6


class JobFailed(MlopsError):
    """A job ended as Failed."""

    exit_code = 7


class JobCanceled(MlopsError):
    """A job was cancelled."""

    exit_code = 8


class JobStatusUnknown(MlopsError):
    """A job stands in a state that is neither running nor done."""

    exit_code = 9


class Held(MlopsError):
    """The gate says HOLD: the evidence does not reach."""

    exit_code = 10


class EvidenceError(MlopsError):
    """Evaluation results are missing or don't fit together."""

    exit_code = 11


class RegistrationError(MlopsError):
    """A model could not be registered."""

    exit_code = 12


class DeploymentFailed(MlopsError):
    """A deployment did not become healthy."""

    exit_code = 13


class SmokeTestFailed(MlopsError):
    """The new deployment's answers are not good enough."""

    exit_code = 14


class TrafficError(MlopsError):
    """Traffic is not what it should be."""

    exit_code = 15


class TeardownIncomplete(MlopsError):
    """Something of ours still exists."""

    exit_code = 16


class NotPromoted(MlopsError):
    """A stage behind the gate was called, and the gate does not let this candidate through."""

    exit_code = 17


class DataError(MlopsError):
    """The data set can't be had, or lacks a split. What is wrong inside a row is a finding (ValidationFailed)."""

    exit_code = 18


class SelfTestFailed(MlopsError):
    """The gate does not notice what it must notice, so its verdict would be worth nothing and there is none."""

    exit_code = 19


class Rejected(MlopsError):
    """The gate says REJECT: the candidate is shown to be worse."""

    exit_code = 20


class GitHubRefused(MlopsError):
    """GitHub's REST API answered with an error."""

    exit_code = 21
