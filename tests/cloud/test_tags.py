"""Tag names: defined once, and equal in the packages that may not import mlops.cloud."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from mlops.cloud import tags

ROOT = Path(__file__).parents[2] / "mlops"
NAMES = [value for name, value in vars(tags).items() if name.isupper() and value not in (tags.MARK, tags.WAITING)]


def tag_literals(paths: Iterable[Path]) -> set[str]:
    """Return the string constants in these files that look like the name of a tag."""
    constants = (node.value for path in paths for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and re.fullmatch(r"mlops\.[a-z_]+", value)}


def test_names_are_unique() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_scoring_jobs_use_the_same_names() -> None:
    assert {tags.ROLE, tags.SERVED_MODEL, tags.EVALUATION_VERSION} <= tag_literals((ROOT / "remote").glob("*.py"))


def test_verdicts_use_the_same_names() -> None:
    assert {tags.VERDICT, tags.GATE_RECORD, tags.OVERRIDE} <= tag_literals([ROOT / "report/verdict_tags.py"])


def test_no_other_file_repeats_a_name() -> None:
    files = [*ROOT.glob("*.py"), *(path for room in ("cli", "github", "cloud") for path in (ROOT / room).glob("*.py"))]
    assert tag_literals(path for path in files if path.name != "tags.py") & set(NAMES) == set()
