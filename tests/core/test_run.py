from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mlops.core.errors import RecordError
from mlops.core.records import Evaluated, ModelScores, Prepared, Smoked, Validated
from mlops.core.run import Run, write_atomically


def prepared(**changes: object) -> Prepared:
    fields: dict[str, object] = {"dataset": "d", "revision": "r", "percent": 5.0, "seed": 1, "fingerprint": "f"}
    return Prepared.model_validate(fields | changes)


def validated(upstream: Prepared) -> Validated:
    return Validated(
        inputs={"prepare": upstream.digest()}, data_fingerprint="f", rows_checked={}, suites={}, base_model="m", component="c", compute="x",
        compute_size="s", gpus_per_node=1, endpoint_sku="e", cost_estimate_usd=None, cost_note="",
    )  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    record = run.write(prepared())
    assert run.read(Prepared) == record


def test_equal_results_have_equal_digests() -> None:
    assert prepared().digest() == prepared(created_at="2020-01-01T00:00:00Z").digest()
    assert prepared().digest() != prepared(fingerprint="g").digest()


def test_reuse_does_not_change_the_digest() -> None:
    fields = {"role": "base", "model": "m", "weights_digest": "w", "job": "j", "mlflow_run_id": "r", "metrics": {}, "rows": {}}
    scores = [ModelScores.model_validate({**fields, "suite_digests": {}, "scores": "s", "reused": reused}) for reused in (True, False)]
    first, second = (Evaluated(evaluation_version="v", models={"base": one}).digest() for one in scores)
    assert first == second


def test_nan_and_infinity_survive() -> None:
    scores = ModelScores(
        role="base", model="m", weights_digest="w", job="j", mlflow_run_id="r", metrics={"a": math.nan, "b": math.inf}, rows={},
        suite_digests={}, scores="s",
    )  # fmt: skip
    again = ModelScores.model_validate_json(scores.model_dump_json())
    assert math.isnan(again.metrics["a"])
    assert again.metrics["b"] == math.inf


def test_a_missing_record_is_reported_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="mlops smoke-test"):
        Run(tmp_path).read(Smoked)
    assert Run(tmp_path).find(Smoked) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"unknown": 1}'])
def test_an_unreadable_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prepare.json").write_text(text)
    with pytest.raises(RecordError, match="can't be read"):
        Run(tmp_path).read(Prepared)


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(prepared())
    content = json.loads((tmp_path / "prepare.json").read_text()) | {"schema_version": 1}
    (tmp_path / "prepare.json").write_text(json.dumps(content))
    with pytest.raises(RecordError):
        run.read(Prepared)


def test_a_record_of_changed_inputs_is_out_of_date(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(validated(run.write(prepared())))
    run.read(Validated)
    run.write(prepared(fingerprint="new"))
    with pytest.raises(RecordError, match="another prepare record"):
        run.read(Validated)


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    data = run.path("data", "train.jsonl")
    data.write_text("one\n")
    run.write(prepared(files={"train": run.describe_file(data, rows=1)}))
    run.read(Prepared)
    data.write_text("two\n")
    with pytest.raises(RecordError, match=r"train\.jsonl"):
        run.read(Prepared)
    data.unlink()
    with pytest.raises(RecordError, match=r"train\.jsonl"):
        run.read(Prepared)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_is_recorded_until_its_own_stage_succeeds(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.failure() is None
    run.record_failure("deploy", "It is not healthy.")
    run.clear_failure("teardown")
    assert run.failure() == ("deploy", "It is not healthy.")
    run.clear_failure("deploy")
    assert run.failure() is None
