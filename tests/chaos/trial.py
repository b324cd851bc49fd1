"""One trial: a fault at one request of a stage, what the workflow does then, the same again without a fault, and what must hold."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from mlops.cloud.tags import CHANGE, CREATION_ID, MARK, PIPELINE, PREVIOUS, RUN_KEY
from mlops.core.errors import MlopsError
from mlops.core.run import Run
from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from tests.chaos.faults import KINDS, Injector, Point
from tests.chaos.world import REQUESTS, Site, Stage, World

__all__ = ["Result", "Trial", "record", "run"]

TERMINAL = ("Completed", "Failed", "Canceled")
QUIET_S = 60.0
DEPLOYMENT_HEADER = "azureml-model-deployment"
KEPT = ("endpoint", "deployment", "model", "run", "compute")
"""Kinds of documents of which the others' must stay as they are."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What happens where."""

    stage: str
    point: Point
    kind: str

    def __str__(self) -> str:
        return f"{self.stage}:{self.point}:{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Trial:
        """Read what :meth:`__str__` writes."""
        stage, _, rest = text.partition(":")
        point, _, kind = rest.rpartition(":")
        return cls(stage, Point.parse(point), kind)

    @property
    def ends_like(self) -> str:
        """The stage after which the same is there in the end. A deployment that never answers is not made live by ``recover``."""
        is_silent = self.point.request.startswith("scoring ") and self.kind in ("403", "500")
        return "recover to the old" if self.stage == "recover to the new" and is_silent else self.stage


@dataclasses.dataclass
class Result:
    """What a trial has shown.

    Attributes:
        reached: whether the fault happened; a stage that polls makes sometimes one request more or less.
        code: exit code of the stage, negative for a signal.
        violations: the invariants that did not hold.
        seconds: how long it took.
        text: the end of what was printed, if an invariant did not hold.
    """

    trial: str
    reached: bool = True
    code: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    text: str = ""


class Observer:
    """Looks at one Azure: what holds at every moment, and what is there.

    Args:
        azure: the emulated Azure.
        endpoint: the target's.
        tested: deployments (their creation ids) that have passed a smoke test before.
    """

    def __init__(self, azure: Azure, endpoint: str, tested: set[str]) -> None:
        self._azure, self._endpoint, self._tested = azure, endpoint, tested
        self._asked = Counter[str]()
        self._was_live = bool(_shares(azure.store.get("endpoint", endpoint)))
        self._foreign = self._read_foreign()
        self.violations: list[str] = []

    def watch(self, request: Request, host: str) -> None:
        """Check the traffic after a request."""
        if host == "scoring" and (name := request.headers.get(DEPLOYMENT_HEADER)):
            self._asked[name] += 1
        if request.method == "GET":
            return
        endpoint = self._azure.store.get("endpoint", self._endpoint)
        shares = _shares(endpoint)
        problem = ""
        if shares and sum(shares.values()) != 100:
            problem = f"the traffic is {shares}"
        elif self._was_live and endpoint is not None and not shares:
            problem = "no deployment takes traffic any more"
        # A change that is not confirmed yet may be undone, also if nothing was live before.
        self._was_live |= bool(shares) and endpoint is not None and CHANGE not in endpoint["tags"]
        for name in shares:
            deployment = self._azure.store.get("deployment", f"{self._endpoint}/{name}")
            if deployment is None or deployment["state"] != "Succeeded":
                problem = f"{name} takes traffic and is {deployment and deployment['state']}"
            elif self._asked[name] < REQUESTS and (deployment["tags"] or {}).get(CREATION_ID) not in self._tested:
                problem = f"{name} takes traffic and is untested"
        if problem and not self.violations:
            self.violations.append(f"{problem}, after {host} {request.method} {request.url.path.rpartition('workspaces')[2]}")

    def quiet(self) -> None:
        """Wait until nothing happens in Azure by itself any more."""
        store, deadline = self._azure.store, time.monotonic() + QUIET_S
        while any(each["status"] == "InProgress" for _, each in store.list("operation")) or any(
            run["kind"] == "job" and run["status"] not in TERMINAL for run in runstore.list_all(self._azure)
        ):
            if time.monotonic() > deadline:
                raise RuntimeError("Azure does not become quiet")
            time.sleep(0.01)

    def check(self, when: str) -> None:
        """Check what must hold whenever no stage runs."""
        for key, document in self._read_foreign().items():
            if self._foreign.get(key) != document:
                self.violations.append(f"{when}: {' '.join(key)} of somebody else was changed")
        if gone := self._foreign.keys() - self._read_foreign().keys():
            self.violations.append(f"{when}: {gone} of somebody else is gone")
        endpoint = self._azure.store.get("endpoint", self._endpoint)
        if endpoint is not None and any(endpoint["mirror"].values()) and CHANGE not in endpoint["tags"]:
            self.violations.append(f"{when}: the traffic is mirrored, and no tag says so: {endpoint['mirror']}")
        completed = Counter(
            run["tags"].get(RUN_KEY, "") for run in runstore.list_all(self._azure) if run["kind"] == "job" and run["status"] == "Completed"
        )
        if double := {key: count for key, count in completed.items() if key and count > 1}:
            self.violations.append(f"{when}: more than one job per run key: {double}")

    def find_orphans(self) -> list[str]:
        """Return our deployments that bill and that nobody needs: no traffic, no standby, and no part of an unfinished change."""
        endpoint = self._azure.store.get("endpoint", self._endpoint)
        if endpoint is None:
            return []
        tags = endpoint["tags"] or {}
        change = json.loads(tags.get(CHANGE) or "{}")
        needed = {*_shares(endpoint), tags.get(PREVIOUS), *change.get("was", ()), change.get("to")}
        return [
            f"{deployment['name']} ({deployment['state']})"
            for _, deployment in self._azure.store.list("deployment", f"{self._endpoint}/")
            if _is_ours(deployment) and deployment["name"] not in needed
        ]

    def summary(self) -> dict[str, Any]:
        """Return what is there of ours, without what differs between equal runs."""
        store = self._azure.store
        keys = {key.lower(): (model["tags"] or {}).get(RUN_KEY, "") for key, model in store.list("model")}
        endpoints, deployments = {}, []
        for name, endpoint in store.list("endpoint"):
            tags = endpoint["tags"] or {}
            endpoints[name] = {
                "state": endpoint["state"],
                "change": CHANGE in tags,
                "previous": PREVIOUS in tags,
                "mirrors": any(endpoint["mirror"].values()),
            }
            for _, deployment in store.list("deployment", f"{name}/"):
                model = "/".join(deployment["model"].lower().split("/models/")[-1].split("/versions/"))
                role = "standby" if tags.get(PREVIOUS) == deployment["name"] else "theirs" if not _is_ours(deployment) else ""
                deployments.append([name, keys.get(model, model), _shares(endpoint).get(deployment["name"], 0), role, deployment["state"]])
        runs = [run for run in runstore.list_all(self._azure) if run["kind"] == "job"]
        return {
            "endpoints": endpoints,
            "deployments": sorted(deployments),
            "models": sorted(keys.values()),
            "trainings": sum(run["name"].startswith("mlops-train-") and run["status"] == "Completed" for run in runs),
        }

    def _read_foreign(self) -> dict[tuple[str, str], Document]:
        return {(kind, key): document for kind in KEPT for key, document in self._azure.store.list(kind) if "their" in key}


def record(world: World, stage: Stage) -> tuple[list[str], dict[str, Any]]:
    """Run a stage and what follows without a fault. Return the requests of the stage, and what is there in the end."""
    site, injector = world.copy(stage.name), Injector()
    with site.emulator(injector) as emulator:
        observer = _observe(site, emulator.azure, stage)
        injector.watch = observer.watch
        code, text = site.run(*stage.command, target=stage.target, started=injector.follow)
        injector.follow(None)
        observer.quiet()
        codes = [code] + [site.run(*command, target=stage.target)[0] for command in (*(stage.cleanup[:-1]), stage.again)]
        observer.quiet()
        observer.check("in the end")
        if any(codes) or observer.violations:
            raise RuntimeError(f"without a fault, {stage.name} fails: {codes} {observer.violations}\n{text[-3000:]}")
        return injector.requests, observer.summary()


def run(world: World, stage: Stage, trial: Trial, expected: Mapping[str, Any]) -> Result:
    """Do one trial.

    Args:
        world: with the state before the stage.
        stage: the trial's.
        trial: what happens where.
        expected: what is there in the end without a fault.
    """
    begin, kind, result = time.monotonic(), KINDS[trial.kind], Result(str(trial))
    site, injector = world.copy(stage.name), Injector(trial.point, trial.kind)
    with site.emulator(injector) as emulator:
        observer = _observe(site, emulator.azure, stage)
        injector.watch = observer.watch
        result.code, text = site.run(*stage.command, target=stage.target, started=injector.follow)
        injector.follow(None)
        emulator.azure.faults = calm = Injector()
        calm.watch = observer.watch
        observer.quiet()
        result.reached = injector.happened
        if result.reached:
            observer.violations += _check_message(trial.kind, result.code, text)
            observer.check("after the fault")
            _check_records(site, observer)
            _continue(site, stage, observer, lost=kind.loses_runner)
            if (summary := observer.summary()) != expected:
                observer.violations.append(f"in the end: {_difference(summary, expected)}")
    result.violations = observer.violations
    result.text = site.output.read_text(errors="replace")[-12000:] if result.violations else ""
    result.seconds = time.monotonic() - begin
    return result


def _continue(site: Site, stage: Stage, observer: Observer, *, lost: bool) -> None:
    """Do what the workflow does after a failed job, and then the same again, or a new push if the runner is lost."""
    if lost:
        shutil.rmtree(site.project / "run", ignore_errors=True)
        before = site.world.states / stage.name / "project" / "run"
        if before.exists():
            shutil.copytree(before, site.project / "run")
    for command in stage.cleanup:
        if command == ("recover",) and lost:
            continue
        _must_succeed(site, observer, "the clean-up", command, target=stage.target)
    observer.quiet()
    if stage.is_job and (orphans := observer.find_orphans()):
        observer.violations.append(f"after the clean-up: nobody needs {', '.join(orphans)}")
    observer.check("after the clean-up")
    if lost:
        _must_succeed(site, observer, "the schedule", ("recover",), target=stage.target, records="schedule", number=3, hours_later=2)
        _must_succeed(site, observer, "the next push", stage.anew, target=stage.target, records="next", number=4)
    else:
        _must_succeed(site, observer, "the second attempt", stage.again, target=stage.target)
    observer.quiet()
    observer.check("in the end")
    _check_records(site, observer)


def _must_succeed(site: Site, observer: Observer, what: str, command: Sequence[str], **options: Any) -> None:
    code, text = site.run(*command, **options)
    if code != 0:
        errors = [line for line in text.splitlines() if "error" in line.lower()]
        observer.violations.append(f"{what}, `mlops {' '.join(command)}`, ended with {code}: {(errors or ['no message'])[-1][:600]}")


def _check_message(kind: str, code: int, text: str) -> list[str]:
    """Return what is wrong with what the stage said about the fault."""
    if KINDS[kind].ends_process or code == 0:
        return []
    found = []
    if "Traceback" in text or "Unexpected error" in text:
        found.append("the message: a traceback")
    if code < 0:
        found.append(f"the stage was ended by signal {-code}")
    if not any(word in text.lower() for word in KINDS[kind].says):
        found.append(f"the message does not name the cause, one of {', '.join(KINDS[kind].says)}")
    if not any(mark in text for mark in ("::error::", "Interrupted")):
        found.append("no error is reported")
    return found


def _check_records(site: Site, observer: Observer) -> None:
    for folder in ("run", "next"):
        if not (site.project / folder).exists():
            continue
        try:
            records = Run(site.project / folder)
            list(records.records())
            records.failure()
        except MlopsError as problem:
            observer.violations.append(f"a record is not readable: {problem}")


def _observe(site: Site, azure: Azure, stage: Stage) -> Observer:
    name = {"prod": "chaos", "first": "chaos-first", "pr": "chaos-pr"}[stage.target]
    endpoint = azure.store.get("endpoint", name) or {"tags": {}, "traffic": {}}
    was_live = json.loads(endpoint["tags"].get(CHANGE) or "{}").get("was", ())
    passed = {*_shares(endpoint), *was_live, endpoint["tags"].get(PREVIOUS)}
    smoked = site.project / "run" / "smoke-test.json"
    if smoked.exists():
        passed.add(json.loads(smoked.read_text())["deployment"])
    deployments = [azure.store.get("deployment", f"{name}/{each}") for each in passed if each]
    return Observer(azure, name, {each["tags"][CREATION_ID] for each in deployments if each is not None})


def _shares(endpoint: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: share for name, share in endpoint["traffic"].items() if share} if endpoint is not None else {}


def _is_ours(document: Mapping[str, Any]) -> bool:
    return (document["tags"] or {}).get(PIPELINE) == MARK


def _difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} are {actual[name]}, not {expected[name]}" for name in expected if actual[name] != expected[name])
