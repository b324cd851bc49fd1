"""The errors that can stop the pipeline, each with its own exit code.

Workflows use the exit code, people read the message::

    MlopsError                      1   an unexpected error
    ├── Detached                    0   not a failure: training continues in Azure; the runner has detached
    ├── UsageError                  2   a command or an option that does not exist
    ├── ConfigError                 2   pipeline.toml or the environment is wrong
    ├── RecordError                 3   a record in run/ is missing, unreadable or out of date
    ├── CredentialError             4   no identity, or Azure does not accept it
    ├── ValidationFailed            5   data, configuration or workspace are not fit for training
    ├── AzureError                  6   the service refused or did not answer as documented
    ├── JobFailed                   7   a job ended as Failed
    ├── JobCanceled                 8   a job was canceled
    ├── JobStatusUnknown            9   a job is in a state that is neither running nor finished
    ├── EvidenceError              11   evaluation results are missing or don't fit together
    ├── RegistrationError          12   a model could not be registered
    ├── DeploymentFailed           13   a deployment did not become healthy
    ├── SmokeTestFailed            14   the new deployment's answers are not good enough
    ├── TrafficError               15   traffic is not what it should be
    │   └── CanaryStopped          24   the new deployment is worse than the old one, or isn't shown to be as good
    ├── TeardownIncomplete         16   something that this pipeline created still exists
    ├── NotPromoted                17   a stage after the gate was called, but the gate doesn't admit the candidate
    ├── DataError                  18   the data set can't be read, or lacks a split
    ├── SelfTestFailed             19   the gate misses faults that it must detect, so it gives no verdict
    ├── GitHubRefused              21   GitHub's REST API answered with an error
    ├── StorageFailed              22   a file or folder can't be read or written: full disk, permissions
    ├── RunInUse                   23   another command is writing to the run directory
    └── Interrupted               130   Ctrl-C or SIGTERM, as in a shell

`mlops gate` exits with 10 for HOLD and 20 for REJECT. As in a shell, 141 means that the reader of the output has closed it
(`mlops show | head`); this prints nothing.
"""

from __future__ import annotations

__all__ = [
    "INTERRUPTED",
    "OUTPUT_CLOSED",
    "AzureError",
    "CanaryStopped",
    "ConfigError",
    "CredentialError",
    "DataError",
    "DeploymentFailed",
    "Detached",
    "EvidenceError",
    "GitHubRefused",
    "Interrupted",
    "JobCanceled",
    "JobFailed",
    "JobStatusUnknown",
    "MlopsError",
    "NotPromoted",
    "RecordError",
    "RegistrationError",
    "RunInUse",
    "SelfTestFailed",
    "SmokeTestFailed",
    "StorageFailed",
    "TeardownIncomplete",
    "TrafficError",
    "UsageError",
    "ValidationFailed",
]

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
OUTPUT_CLOSED = 141
"""Exit code when the reader of the output has closed it: what a shell shows for a process that SIGPIPE ended."""


class MlopsError(Exception):
    """An error of the pipeline: what happened, and what to do about it.

    Args:
        what: what happened and what it means for the user's money and traffic.
        fix: the command or setting that fixes it; empty if the user can't do anything.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nFix: {self.fix}" if self.fix else self.what

    @property
    def in_one_line(self) -> str:
        """The error on one line, as part of a list or of another message."""
        return f"{self.what} {self.fix}".rstrip()


class Detached(MlopsError):
    """Training continues in Azure; the runner detached as configured. Running the command again attaches to it."""

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
    """Data, configuration or workspace are not fit for training."""

    exit_code = 5


class AzureError(MlopsError):
    """The service refused, or did not answer as documented."""

    exit_code = 6


class JobFailed(MlopsError):
    """A job ended as Failed."""

    exit_code = 7


class JobCanceled(MlopsError):
    """A job was canceled."""

    exit_code = 8


class JobStatusUnknown(MlopsError):
    """A job is in a state that is neither running nor finished."""

    exit_code = 9


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


class CanaryStopped(TrafficError):
    """The new deployment answers worse than the old one, or wasn't shown to answer as well."""

    exit_code = 24


class TeardownIncomplete(MlopsError):
    """Something that this pipeline created still exists."""

    exit_code = 16


class NotPromoted(MlopsError):
    """A stage after the gate was called, but the gate doesn't admit this candidate."""

    exit_code = 17


class DataError(MlopsError):
    """The data set can't be read, or lacks a split. A malformed row is a finding (ValidationFailed)."""

    exit_code = 18


class SelfTestFailed(MlopsError):
    """The gate misses faults that it must detect. Its verdict would be worthless, so there is none."""

    exit_code = 19


class GitHubRefused(MlopsError):
    """GitHub's REST API answered with an error."""

    exit_code = 21


class StorageFailed(MlopsError):
    """A file or folder can't be read or written: the disk is full, permissions are missing, or something else has the name."""

    exit_code = 22


class RunInUse(MlopsError):
    """Another command is writing to the run directory."""

    exit_code = 23


class Interrupted(MlopsError):
    """Ctrl-C, or a SIGTERM."""

    exit_code = INTERRUPTED
