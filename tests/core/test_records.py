from __future__ import annotations

from pathlib import Path

import pytest

from mlops.core.errors import RecordError
from mlops.core.records import Prepared


def test_a_split_that_the_data_lacks_is_an_error_that_names_it() -> None:
    record = Prepared.model_validate(
        {"dataset": "d", "revision": "r", "percent": 5.0, "seed": 1, "fingerprint": "f"}
        | {"files": {"train_sft": {"path": "data/train_sft.jsonl", "sha256": "0" * 64}}}
    )
    assert record.path("train_sft", Path("run")) == Path("run/data/train_sft.jsonl")
    with pytest.raises(RecordError, match="has no split test_gen") as refused:
        record.path("test_gen", Path("run"))
    assert "mlops prepare" in refused.value.fix
