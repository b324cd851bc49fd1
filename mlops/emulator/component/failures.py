"""Failures of a step: the code, text and inner code that Azure ML shows on the job."""

from __future__ import annotations

__all__ = ["StepError", "SystemFailure", "UserError"]


class StepError(Exception):
    """A step has failed.

    Args:
        message: the text on the job page.
        inner: the inner error code.
    """

    code = "SystemError"

    def __init__(self, message: str, inner: str) -> None:
        super().__init__(message)
        self.message = message
        self.inner = inner


class UserError(StepError):
    """The submitted job is at fault."""

    code = "UserError"

    def __init__(self, message: str, inner: str = "BadArgument") -> None:
        super().__init__(message, inner)


class SystemFailure(StepError):
    """The component or its machine is at fault."""

    def __init__(self, message: str, inner: str = "InternalServerError") -> None:
        super().__init__(message, inner)
