"""The state of Azure before each stage, and what the stage and the rest of its workflow run.

A permanent target with a champion that is live, a candidate, a deployment and an endpoint of somebody else; a target whose endpoint does
not exist yet; and an ephemeral one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from tests.chaos.faults import Injector, Point
from tests.chaos.forks import Forks
from tests.chaos.prepared import SharedMlflow, prepared
from tests.support.rows import write_rows

__all__ = ["REQUESTS", "STAGES", "Site", "Stage", "World"]

REQUESTS = 2
"""Answers that a smoke test needs."""
TOML = f"""
[defaults.data]
dataset = "conversations"
percent = 100.0

[defaults.training.parameters]
max_steps = 1
apply_deepspeed = "false"
evaluation_strategy = "disable"
seed = SEED

[defaults.evaluation]
target_rows = 60
retention_suite = "retention.jsonl"
generate_rows = 1
max_new_tokens = 4
precision = "float32"

[defaults.gate.rules.target]
metric = "target.nll"
direction = "lower"
baseline = "base"

[defaults.gate.rules.retention]
metric = "retention.nll"
direction = "lower"
baseline = "base"
margin = 0.4
margin_kind = "absolute"

[defaults.endpoint]
name = "chaos"
probe_initial_delay_s = 1

[defaults.smoke]
requests = {REQUESTS}
max_new_tokens = 4
max_latency_ms = 60000

[defaults.promotion]
steps = [5, 100]
margin = 0.4
mirror = 10
latency_floor_ms = 60000

[targets.prod]

[targets.first]
compute.name = "chaos-first"
endpoint.name = "chaos-first"

[targets.pr.endpoint]
name = "chaos-pr"
ephemeral = true
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a workflow that the trials stop.

    Args:
        name: for people; also that of the saved state before it.
        command: what is stopped.
        target: whose settings.
        recovers: whether its job ends with `mlops recover`, whatever happened.
        is_job: whether it is a job of the pipeline, after which teardown runs, whatever happened, and which can be run again.
    """

    name: str
    command: tuple[str, ...]
    target: str = "prod"
    recovers: bool = False
    is_job: bool = True

    @property
    def cleanup(self) -> tuple[tuple[str, ...], ...]:
        """What the workflow does after the command, whatever happened."""
        return (*((("recover",),) if self.recovers else ()), *((TEARDOWN,) if self.is_job else ()))

    @property
    def again(self) -> tuple[str, ...]:
        """What runs when the failed jobs are run again, with the records that the command left.

        The clean-up deletes a deployment that was not promoted, so its message says to begin with deploy.
        """
        if not self.is_job:
            return self.command
        first = self.command[2] if self.command[2] not in ("smoke-test", "promote") else "deploy"
        return ("run", "--from", first, "--until", "teardown")

    @property
    def anew(self) -> tuple[str, ...]:
        """What runs at the next push, without any records."""
        return ("run", "--until", "teardown") if self.is_job else self.command


TEARDOWN = ("run", "--from", "teardown", "--keep")


def _job(first: str, last: str = "", *, name: str = "", target: str = "prod", recovers: bool = False) -> Stage:
    return Stage(name or last or first, ("run", "--from", first, "--until", last or first, "--keep"), target, recovers)


JOBS = (
    _job("prepare", "validate"), _job("train"), _job("evaluate", "gate"), _job("register"), _job("deploy"), _job("smoke-test"),
    _job("promote", recovers=True),
)  # fmt: skip
"""The jobs of a push, in their order."""
FIRST = (
    _job("prepare", "validate", name="first validate", target="first"),
    _job("deploy", name="first deploy", target="first"),
    _job("promote", name="first promote", target="first", recovers=True),
)
TEARDOWN_PR = Stage("teardown of a pull request", TEARDOWN, "pr", is_job=False)
AFTER = (Stage("teardown", TEARDOWN, is_job=False), Stage("rollback", ("rollback",), recovers=True, is_job=False))
KILLED = {"recover to the new": 4, "recover to the old": 3, "recover a comparison": 1}
"""After a promotion that was killed at a change of the endpoint: when the new deployment had all of the traffic, a part, and a copy."""
RECOVER = tuple(Stage(name, ("recover",), is_job=False) for name in KILLED)
STAGES = {stage.name: stage for stage in (*JOBS, *AFTER, *RECOVER, *FIRST, TEARDOWN_PR)}


class Site:
    """A folder with an emulated Azure and a project in front of it.

    Args:
        world: what it is a part of.
        folder: has ``azure``, ``project`` and ``mlflow.db``.
    """

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.project = folder / "project"
        self.output = folder / "output.txt"
        self._environment: dict[str, str] = {}

    @contextlib.contextmanager
    def emulator(self, injector: Injector) -> Iterator[Emulator]:
        """Run the emulated Azure."""
        with Emulator(self.folder / "azure", self.world.options(), injector) as emulator:
            self._environment = emulator.environment()
            yield emulator

    def run(
        self,
        *command: str,
        target: str = "prod",
        records: str = "run",
        number: int = 2,
        hours_later: float = 0.0,
        started: Callable[[int], None] = lambda _: None,
    ) -> tuple[int, str]:
        """Run a command as a job in GitHub does; return its exit code, and what it printed.

        Args:
            command: of mlops, with its options.
            target: whose settings.
            records: name of the run directory.
            number: of the workflow run.
            hours_later: how late the clock is.
            started: is called with the process id.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        github = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "our/project", "GITHUB_ACTOR": "us", "GITHUB_RUN_ID": str(number)}
        start = self.output.stat().st_size if self.output.exists() else 0
        code = self.world.forks.run(
            [*command, "--target", target, "--run", records],
            cwd=self.project,
            environment={**kept, **github, **self._environment},
            output=self.output,
            hours_later=hours_later,
            started=started,
        )
        return code, self.output.read_bytes()[start:].decode(errors="replace")

    def check(self, *command: str, **options: Any) -> None:
        """Run a command that must succeed."""
        code, text = self.run(*command, **options)
        if code != 0:
            raise RuntimeError(f"mlops {' '.join(command)} ended with {code}:\n{text[-4000:]}")

    def write_settings(self, seed: int) -> None:
        """Write pipeline.toml; another seed is another training."""
        (self.project / "pipeline.toml").write_text(TOML.replace("SEED", str(seed)))

    def write_data(self) -> None:
        for split, count in {"train_sft": 60, "test_sft": 70, "train_gen": 4, "test_gen": 6}.items():
            write_rows(self.project / "conversations" / f"{split}.jsonl", [_row(number, split) for number in range(count)])
        write_rows(self.project / "retention.jsonl", [_row(number, "kept") | {"kind": "counting"} for number in range(12)])


class World:
    """Saved states, and what is necessary to run commands in copies of them. A context manager.

    Args:
        states: folder of the states; those that are in it already are used.
        scratch: folder for everything else.
        cache: for the weights of the base model.
    """

    def __init__(self, states: Path, scratch: Path, cache: Path) -> None:
        self.states, self.scratch, self._cache = states, scratch, cache
        self.forks = Forks()
        self._keeper = Emulator(scratch / "mlflow", self.options(mlflow_at_start=True))
        self._stack = contextlib.ExitStack()

    def options(self, **changes: Any) -> Options:
        return Options(weights="tiny-llama", cache=self._cache, **changes)

    def __enter__(self) -> World:
        self._stack.enter_context(self.forks)
        self._stack.enter_context(self._keeper)
        self.mlflow = SharedMlflow(self._keeper.azure)
        self._stack.enter_context(prepared(self.mlflow))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def copy(self, name: str) -> Site:
        """Make a copy of a saved state in the one folder for it."""
        folder = self.scratch / "site"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.states / name, folder, symlinks=True)
        self.mlflow.restore(folder / "mlflow.db")
        return Site(self, folder)

    def prepare(self, names: Collection[str] = ()) -> None:
        """Make the states before some stages, or before all of them, unless they are there.

        Args:
            names: of the stages; all of them by default.
        """
        wanted = [stage for stage in STAGES.values() if not names or stage.name in names]
        if all((self.states / stage.name).exists() for stage in wanted):
            return
        shutil.rmtree(self.states, ignore_errors=True)
        self._make_champion()
        self._prepare_push(wanted)
        self._prepare_recovery([stage for stage in wanted if stage in RECOVER])
        self._prepare_first([stage for stage in wanted if stage in FIRST])
        if TEARDOWN_PR in wanted:
            site = self.copy("champion")
            with site.emulator(Injector()):
                site.check("run", "--until", "promote", "--keep", target="pr")
            self._save(site, TEARDOWN_PR.name)

    def _prepare_push(self, wanted: Collection[Stage]) -> None:
        """Make the states of the push of a candidate."""
        site = self.copy("champion")
        passed: list[Stage] = []

        def catch_up() -> None:
            if passed:
                with site.emulator(Injector()):
                    site.check("run", "--from", passed[0].command[2], "--until", passed[-1].command[4], "--keep")
                passed.clear()

        for stage in JOBS:
            if stage in wanted or (stage.name == "promote" and any(each in wanted for each in RECOVER)):
                catch_up()
                self._save(site, stage.name)
            passed.append(stage)
        for stage in AFTER:
            if stage in wanted:
                catch_up()
                self._save(site, stage.name)

    def _prepare_recovery(self, wanted: Collection[Stage]) -> None:
        """Make the states after a promotion that was killed."""
        for stage in wanted:
            site = self.copy("promote")
            injector = Injector(Point("arm PUT ~/onlineEndpoints/chaos", KILLED[stage.name]), "kill-after")
            with site.emulator(injector):
                site.run(*STAGES["promote"].command, started=injector.follow)
            self._save(site, stage.name)

    def _prepare_first(self, wanted: Collection[Stage]) -> None:
        """Make the states of a target whose cluster and endpoint do not exist yet."""
        if not wanted:
            return
        site = self.copy("champion")
        self._save(site, FIRST[0].name)
        for stage, (first, last) in zip(FIRST[1:], (("prepare", "register"), ("deploy", "smoke-test")), strict=True):
            with site.emulator(Injector()):
                site.check("run", "--from", first, "--until", last, "--keep", target="first")
            self._save(site, stage.name)

    def _make_champion(self) -> None:
        folder = self.scratch / "site"
        shutil.rmtree(folder, ignore_errors=True)
        site = Site(self, folder)
        site.write_data()
        site.write_settings(seed=1)
        with site.emulator(Injector()) as emulator:
            site.check("run", "--until", "promote", "--keep", number=1)
            make_foreign(emulator)
        site.write_settings(seed=2)
        shutil.rmtree(site.project / "run")
        self._save(site, "champion")

    def _save(self, site: Site, name: str) -> None:
        self.mlflow.save(site.folder / "mlflow.db")
        site.output.unlink(missing_ok=True)
        shutil.copytree(site.folder, self.states / name, symlinks=True)


def make_foreign(emulator: Emulator) -> None:
    """Put something of somebody else beside everything that the pipeline has made: the same without its tags."""
    store = emulator.azure.store

    def clone(kind: str, pattern: str, key: str, **changes: Any) -> None:
        document = next(document for name, document in store.list(kind) if fnmatch(name, pattern))
        store.put(kind, key, {**document, "tags": {}, **changes})

    clone("endpoint", "chaos", "theirs", name="theirs", traffic={"live": 100})
    clone("deployment", "chaos/*", "theirs/live", name="live", endpoint="theirs")
    clone("deployment", "chaos/*", "chaos/theirs", name="theirs")
    clone("model", "*", "their-model/1", name="their-model", version="1")
    clone("run", "mlops-train-*", "their-job", name="their-job")
    clone("compute", "*", "their-gpu")


def _row(number: int, split: str) -> dict[str, object]:
    question = f"{split}: what comes after {number}?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"After {number} comes {number + 1}, as ever."}]
    return {"prompt": question, "prompt_id": f"{split}-{number}", "messages": messages}
