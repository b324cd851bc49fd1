"""Named outputs of a job, which become data assets or models when the job, or the node that writes them, has completed.

"Read and write data in a job" on learn.microsoft.com. Without a version, an asset gets the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlops.emulator.base.azure import Azure
from mlops.emulator.history import runstore
from mlops.emulator.wire.resources import validate_body
from mlops.emulator.workspace import data, models

__all__ = ["register_outputs"]


def register_outputs(azure: Azure, run: str, names: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Register the outputs of a run.

    Args:
        azure: the emulated Azure.
        run: name of the run, whose outputs have been written.
        names: output → name and version of its asset; without a name, the output has only the asset that every output has.

    Raises:
        AzureFault: 400 or 409, there is nothing to register, or the version exists and is something else.
    """
    for output, (name, version) in names.items():
        if not name:
            continue
        document = runstore.get(azure, run)
        assert document is not None
        kind, uri = document["outputs"][output]["type"], document["outputs"][output]["uri"]
        if kind.endswith("_model"):
            version = version or models.next_version(azure, name)
            sent = {"modelUri": uri, "modelType": kind, "jobName": run}
            models.register(azure, name, version, validate_body(sent, models.VersionProperties))
        else:
            version = version or data.COLLECTION.next_version(azure, name)
            data.COLLECTION.store(azure, name, version, {"dataUri": uri, "dataType": kind})
        with runstore.change(azure, run) as changed:
            changed["outputs"][output]["asset"] = {"name": name, "version": version}
