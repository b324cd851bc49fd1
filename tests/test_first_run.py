"""docs/first-run-on-azure.md: its commands, as far as they can be checked without Azure and GitHub, and its costs.

``pytest tests/test_first_run.py --write-docs`` brings the costs up to date.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from mlops.__main__ import COMMANDS, main
from mlops.cloud.permissions import SCOPES, role_name
from mlops.core.config import load
from mlops.core.settings import COORDINATES
from mlops.emulator.identity.github_oidc import ISSUER
from mlops.emulator.server import Emulator
from mlops.github.oidc import AUDIENCE
from tests.live.conftest import LIVE
from tests.support import azure_only
from tests.support.live import SIZE

ROOT = Path(__file__).parent.parent
PATH = ROOT / "docs" / "first-run-on-azure.md"
PAGE = PATH.read_text()
SCRIPT = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
LIVE_TESTS = (ROOT / "tests" / "live" / "test_workspace.py").read_text()
WORKFLOWS = {path.name: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def costs_table() -> str:
    """What the first run costs and needs, by the prices, hours and sizes of pipeline.toml."""
    rows = ["| target | training | endpoint | cores of quota for training | cores of quota for the endpoint |", "|---|---|---|---|---|"]
    for target in ("pr", "prod"):
        config = load(ROOT / "pipeline.toml", target, environment={})
        compute, endpoint, hours = config.compute, config.endpoint, config.training.expected_hours
        assert compute.price_per_hour_usd is not None
        assert endpoint.price_per_hour_usd is not None
        assert hours is not None
        hourly = endpoint.price_per_hour_usd * endpoint.instance_count
        # A new deployment starts beside the live one, and the previous one may be kept.
        deployments = 1 if endpoint.ephemeral else 3 if endpoint.keep_previous else 2
        serving = "while the run lasts" if endpoint.ephemeral else f"for each deployment: {hourly * 730:,.0f} USD a month"
        nodes = int(config.training.parameters.get("num_nodes_finetune", 1))
        rows.append(
            f"| `{target}` | up to {hours * nodes * compute.price_per_hour_usd:,.2f} USD: {hours:g} h of {compute.size}"
            f" | {hourly:,.2f} USD an hour, {serving} | {nodes * cores(compute.size)}"
            f" | {deployments * endpoint.instance_count * cores(endpoint.instance_type)} |"
        )
    return "\n".join(rows)


def cores(size: str) -> int:
    """The number of vCPUs, with which the name of a VM size begins."""
    match = re.match(r"Standard_[A-Za-z]+(\d+)", size)
    assert match, size
    return int(match[1])


def mlops_commands() -> Iterator[list[str]]:
    """The arguments of every call of ours on the page, outside of the blocks too."""
    inline = "\n".join(re.findall(r"`(mlops [^`]*|python -m mlops[^`]*)`", PAGE))
    for line in f"{SCRIPT}\n{inline}".splitlines():
        match = re.search(r"(?:^|/| )(?:mlops|python -m mlops) ([a-z][a-z-]* .*|[a-z][a-z-]*$)", line)
        if match and not line.startswith("cd"):
            words = shlex.split(re.split(r"[>|&)]", match[1])[0], comments=True)
            yield words


def test_the_costs_are_those_of_pipeline_toml(request: pytest.FixtureRequest) -> None:
    fresh = re.sub(r"(<!-- costs:[^\n]*-->\n).*?(<!-- /costs -->)", rf"\g<1>{costs_table()}\n\g<2>", PAGE, flags=re.DOTALL)
    if request.config.getoption("--write-docs"):
        PATH.write_text(fresh)
    assert PATH.read_text() == fresh, f"{PATH} is stale: pytest tests/test_first_run.py --write-docs"


def test_our_commands_have_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    commands = list(mlops_commands())
    assert {words[0] for words in commands} == {"roles", "run", "init", "reap", "validate"}
    for name, *options in commands:
        assert name in COMMANDS
        with pytest.raises(SystemExit):
            main([name, "--help"])
        help_text = capsys.readouterr().out
        for option in options:
            if option.startswith("--"):
                assert re.search(rf"{option}\b", help_text), f"mlops {name} {option}"


def test_the_emulator_takes_the_options() -> None:
    assert "python -m mlops.emulator --roles roles.json -- .nox/local/bin/mlops run --target local" in PAGE


@pytest.mark.parametrize("page", ["first-run-on-azure.md", "azure.md"])
def test_the_emulator_is_started_where_its_packages_are(page: str) -> None:
    starts = re.findall(r"\S*python -m mlops\.emulator", (ROOT / "docs" / page).read_text())
    assert starts
    assert set(starts) == {"`.nox/local/bin/python -m mlops.emulator"}


def run_azure_only(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python as the page installs it, in the project's folder."""
    variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **(environment or {})}
    command = [sys.executable, azure_only.__file__, *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


def test_the_page_installs_what_the_commands_import() -> None:
    assert {"httpx", "hypothesis", "torch", "trustme"} <= azure_only.blocked_modules()
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "mlops").rglob("*.py"))
        if path.relative_to(ROOT).parts[1] not in ("emulator", "remote") and not path.name.startswith("__")
    ]
    done = run_azure_only("-c", f"import importlib; [importlib.import_module(name) for name in {modules}]")
    assert done.returncode == 0, done.stderr


def test_the_page_installs_what_the_live_tests_need(shared_emulator: Emulator, tmp_path: Path) -> None:
    """The emulator is the real workspace here, in another environment."""
    environment = {**shared_emulator.environment(), "MLOPS_LIVE": "free"}
    options = ("-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'live'}", "-k", "sign_in or teardown")
    done = run_azure_only("pytest", *options, "tests/live", environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    others = len(re.findall(r"^def test_", LIVE_TESTS, re.MULTILINE)) - 2
    assert f"1 passed, 1 skipped, {others} deselected" in done.stdout, "all are collected, and what costs money is left out"


def test_the_emulator_says_what_it_needs() -> None:
    done = run_azure_only("mlops.emulator", "--", "true")
    assert done.returncode == 2
    assert "requirements/local.lock" in done.stderr


def test_variables_and_environments_are_those_of_the_workflows() -> None:
    used = {name for text in WORKFLOWS.values() for name in re.findall(r"\bvars\.([A-Z_]+)", text)}
    loops = {match[0]: set(match[1].split()) for match in re.findall(r"for (\w+) in ([^;]*); do", SCRIPT)}
    # Only private workspaces need runners of their own, which docs/azure.md describes.
    used.remove("MLOPS_RUNNER")
    assert loops["name"] == used == {"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_PR_CLIENT_ID", *COORDINATES.values()}
    for name in used:
        assert re.search(rf"^export .*\b{name}=", SCRIPT, re.MULTILINE), f"{name} is never set"
    environments = {"gate-override"} | {
        value for text in WORKFLOWS.values() for value in re.findall(r"^ +(?:promotion-)?environment: ([a-z]+)$", text, re.MULTILINE)
    }
    assert loops["environment"] == environments
    for values in re.findall(r"for environment in ([^;]*); do", SCRIPT):
        assert set(values.split()) == environments


def test_the_federated_credentials_are_what_github_sends_and_entra_expects() -> None:
    assert f'\\"issuer\\": \\"{ISSUER}\\"' in SCRIPT
    assert f'\\"audiences\\": [\\"{AUDIENCE}\\"]' in SCRIPT
    assert '\\"subject\\": \\"repo:$REPOSITORY:environment:$environment\\"' in SCRIPT


def test_dispatched_inputs_and_workflows_exist() -> None:
    dispatch = yaml.safe_load(WORKFLOWS["dispatch.yml"])
    inputs = dispatch.get("on", dispatch.get(True))["workflow_dispatch"]["inputs"]
    given = re.findall(r"gh workflow run dispatch\.yml (.*)", SCRIPT)
    assert given
    for name, value in re.findall(r"-f ([a-z-]+)=(\S+)", " ".join(given)):
        assert value in inputs[name].get("options", [value]), f"{name}={value}"
    assert set(re.findall(r"--workflow (\S+)", SCRIPT)) <= set(WORKFLOWS)


def test_roles_sizes_and_settings_have_these_names() -> None:
    names = {role_name(environment, scope) for environment in ("prod", "pr") for scope in SCOPES}
    deleted = re.search(r"for role in ([^;]*); do", SCRIPT)
    assert deleted
    assert set(deleted[1].split()) == names
    assert all(f"`{name}`" in PAGE for name in names)
    changed = re.search(r"sed --in-place 's/(\S+) = ", SCRIPT)
    assert changed
    assert re.search(rf"{changed[1]} = ", (ROOT / "pipeline.toml").read_text(), re.MULTILINE)


def test_the_live_tests_are_called_as_they_expect() -> None:
    assert set(re.findall(r"MLOPS_LIVE=(\w+)", SCRIPT)) == {"free", "paid"}
    assert LIVE in ("", "free", "paid")
    docstrings = re.findall(r'def test_\w+\([^)]*\) -> None:\n    """(.*)', LIVE_TESTS)
    assert docstrings
    assert all(text.startswith("Cost: ") for text in docstrings), "each test says first what it costs"
    assert SIZE in LIVE_TESTS
