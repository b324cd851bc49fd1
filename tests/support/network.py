"""The network of the emulator's workspace, for one test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlops.emulator.server import Emulator

__all__ = ["Network"]


class Network:
    """``network(name)`` sets it, until the end of the test. See ``--network`` of the emulator."""

    def __init__(self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self._emulator, self._monkeypatch = emulator, monkeypatch

    def __call__(self, name: str, *, managed: bool = True) -> None:
        options = replace(self._emulator.azure.options, network=name, managed_network=managed)
        self._monkeypatch.setattr(self._emulator.azure, "options", options)
