"""The files of blobs: no name leads out of its container."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs, files

CONTAINER = "tests"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.sampled_from("ab./\\\0 ~ü"), min_size=1, max_size=12))
def test_no_name_leads_out(emulator: Emulator, name: str) -> None:
    root = blobs.path(emulator.azure, CONTAINER)
    try:
        file = blobs.path(emulator.azure, CONTAINER, name)
    except files.BlobError:
        return
    assert file.resolve().is_relative_to(root)
    assert file.resolve() != root


@pytest.mark.parametrize("name", ["", "A", "ab", "a--b", "-abc", "a/b", "..", "x" * 64])
def test_invalid_container_names_are_refused(emulator: Emulator, name: str) -> None:
    with pytest.raises(files.BlobError):
        blobs.path(emulator.azure, name)
