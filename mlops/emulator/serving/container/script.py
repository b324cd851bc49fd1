"""Scoring with a script: ``init()`` once, then ``run(data)`` for each request, as azureml-inference-server-http calls them.

``run`` gets the body as a string, and the headers if it has a parameter ``request_headers``; its result is returned as JSON. Scripts that
need that server's own packages (for ``rawhttp`` and ``input_schema``) fail on import.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops.core import console
from mlops.emulator.serving.container.calls import Call, InvalidPayload

__all__ = ["ScriptError", "load_script"]


class ScriptError(Exception):
    """The script can't be used. The message is the real server's."""


def load_script(path: Path) -> Call:
    """Import a scoring script, call its ``init``, and return its ``run`` as a call.

    Raises:
        ScriptError: it lacks a function, or ``run`` has parameters that it can't have. Exceptions of the script itself pass through.
    """
    sys.path.append(str(path.parent))
    specification = importlib.util.spec_from_file_location("entry_module", path)
    if specification is None or specification.loader is None:
        raise ScriptError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise ScriptError(f"User script at {path} does not have a {name}() function defined.")
    call = _make_call(module.run)
    console.info("Invoking user's init function")
    module.init()
    console.info("Users's init has completed successfully")
    return call


def _make_call(run: Any) -> Call:
    parameters = inspect.signature(run).parameters.values()
    if any(each.kind not in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters):
        raise ScriptError("run() cannot accept positional-only arguments, *args, or **kwargs.")
    names = [each.name for each in parameters if each.name != "request_headers"]
    takes_headers = len(names) < len(parameters)
    if not names:
        kind = 'other than "request_headers"' if takes_headers else "for input data"
        raise ScriptError(f"run() needs to accept an argument {kind}.")

    def call(body: bytes, headers: Mapping[str, str]) -> Any:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise InvalidPayload(f"Input cannot be decoded as UTF-8: {problem}") from None
        # As the server writes their names: "X-Ms-Client-Request-Id".
        request_headers = {name.title(): value for name, value in headers.items()}
        return run(**{names[0]: text}, **({"request_headers": request_headers} if takes_headers else {}))

    return call
