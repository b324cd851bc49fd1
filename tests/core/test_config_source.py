from __future__ import annotations

from pathlib import Path

from mlops.core.config import load


def test_a_setting_is_located_by_line_option_or_variable(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    lines = (
        "[defaults.training.parameters]",
        "max_steps = 1",
        "seed = 2",
        "[targets.a.training.parameters]",
        "max_steps = 3",
        "[targets.b]",
        "model = { name = 'x' }",
    )
    path.write_text("\n".join(lines))
    environment = {"AZUREML_WORKSPACE": "ws"}
    a, b = (load(path, target, ["training.parameters.warmup_steps=1"], environment) for target in "ab")
    assert a.locate("training.parameters.max_steps") == f"{path}:5"
    assert b.locate("training.parameters.max_steps") == f"{path}:2"
    assert a.locate("training.parameters.seed") == f"{path}:3"
    assert a.locate("training.parameters.warmup_steps") == "--set training.parameters.warmup_steps=1"
    assert b.locate("model.name") == f"{path}:7"
    assert a.locate("workspace.name") == "AZUREML_WORKSPACE"
    assert a.locate("compute.size") == str(path)
    path.unlink()
    assert a.locate("training.parameters.seed") == str(path)
