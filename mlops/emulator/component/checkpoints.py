"""Checkpoints: saved after each evaluation, loaded for the best model and to resume an interrupted run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlops.emulator.component.model import load_trained, save_trained

__all__ = ["Progress", "checkpoint_folder", "delete_old", "find_newest", "restore", "save"]


@dataclass
class Progress:
    """The progress of training: the state to resume from, apart from weights, optimizer, scheduler and random state.

    Attributes:
        step: completed updates.
        logged_step: completed updates at the last log of the training loss.
        running_loss: sum of the updates' losses since then.
        total_loss: sum of the updates' losses before then.
        tokens: tokens trained on so far, including unlabeled ones.
        best_loss: lowest eval_loss, or None.
        best_step: step of the lowest eval_loss, or None.
        not_improved: consecutive evaluations without improvement, for early stopping.
        is_stopped: whether early stopping has ended the run.
        history: every log so far, as HF Trainer's ``log_history``.
    """

    step: int = 0
    logged_step: int = 0
    running_loss: float = 0.0
    total_loss: float = 0.0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    not_improved: int = 0
    is_stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def checkpoint_folder(output: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return output / f"checkpoint-{step}"


def save(output: Path, model: Any, tokenizer: Any, optimizer: Any, scheduler: Any, progress: Progress) -> None:
    """Save a checkpoint under HF Trainer's file names. The folder appears only when it is complete."""
    import torch

    target = checkpoint_folder(output, progress.step)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_trained(model, part)
    tokenizer.save_pretrained(part)
    torch.save(optimizer.state_dict(), part / "optimizer.pt")
    torch.save(scheduler.state_dict(), part / "scheduler.pt")
    torch.save(torch.get_rng_state(), part / "rng_state.pth")
    (part / "trainer_state.json").write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)


def find_newest(output: Path) -> Path | None:
    """Return the checkpoint with the most steps, or None."""
    return max(_all(output), key=_step, default=None)


def restore(checkpoint: Path, model: Any, optimizer: Any, scheduler: Any) -> Progress:
    """Load a checkpoint into the model, optimizer and scheduler, and return the progress."""
    import torch

    load_trained(model, checkpoint)
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))
    torch.set_rng_state(torch.load(checkpoint / "rng_state.pth", weights_only=True))
    return Progress(**json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))


def delete_old(output: Path, limit: int, best_step: int | None, is_finished: bool = False) -> None:
    """Delete all but ``limit`` checkpoints: keep the newest, to resume from, the best, then the next newest.

    During training a limit of 1 keeps both the newest and the best, as HF Trainer does; after it, only the best.
    """
    if limit < 1:
        return
    newest_first = sorted(_all(output), key=_step, reverse=True)
    by_priority = [path for path in newest_first if _step(path) == best_step]
    if not is_finished and newest_first[:1] != by_priority:
        by_priority, limit = newest_first[:1] + by_priority, max(limit, 2)
    by_priority += [path for path in newest_first if path not in by_priority]
    for path in by_priority[limit:]:
        shutil.rmtree(path)


def _all(output: Path) -> list[Path]:
    return [path for path in output.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))
