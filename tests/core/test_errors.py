from __future__ import annotations

import inspect
import re

from mlops.core import errors


def classes() -> list[type[errors.MlopsError]]:
    return [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, errors.MlopsError)]


def test_every_failure_has_its_own_exit_code() -> None:
    codes: dict[int, list[str]] = {}
    for item in classes():
        codes.setdefault(item.exit_code, []).append(item.__name__)
    # To a workflow a wrong command and a wrong file are the same: argparse's 2.
    assert {code: names for code, names in codes.items() if len(names) > 1} == {2: ["UsageError", "ConfigError"]}


def test_the_tree_in_the_docstring_lists_every_error() -> None:
    documented = dict(re.findall(r"[├└]── (\w+)\s+(\d+)", errors.__doc__ or ""))
    documented["MlopsError"] = "1"
    assert documented == {item.__name__: str(item.exit_code) for item in classes()}


def test_an_error_says_what_to_do() -> None:
    assert str(errors.ConfigError("It is broken.", "fix it")) == "It is broken.\nFix: fix it"
