"""Checkpoints: kept after each evaluation, found again for the best model and for going on where a run stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlops.emulator.component.model import load_trained, save_trained

__all__ = ["Progress", "checkpoint_folder", "forget_old", "newest", "restore", "save"]


@dataclass
class Progress:
    """Where training stands: all that an interrupted run needs beside weights, optimiser, scheduler and random numbers.

    Attributes:
        step: updates done.
        logged_step: updates done at the last log of the training loss.
        running_loss: sum of the updates' losses since then.
        total_loss: sum of the updates' losses before then.
        tokens: trained on so far, unlabelled ones included.
        best_loss: lowest eval_loss, or None.
        best_step: when that was.
        not_improved: evaluations without improvement, for early stopping.
        stopped: early stopping has decided.
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
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def checkpoint_folder(output: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output / f"checkpoint-{step}"


def save(output: Path, model: Any, tokenizer: Any, optimizer: Any, scheduler: Any, progress: Progress) -> None:
    """Keep a checkpoint under HF Trainer's file names. It appears whole or not at all."""
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


def newest(output: Path) -> Path | None:
    """The checkpoint with the most steps."""
    return max(_all(output), key=_step, default=None)


def restore(checkpoint: Path, model: Any, optimizer: Any, scheduler: Any) -> Progress:
    """Put everything back as it was when the checkpoint was kept."""
    import torch

    load_trained(model, checkpoint)
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))
    torch.set_rng_state(torch.load(checkpoint / "rng_state.pth", weights_only=True))
    return Progress(**json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))


def forget_old(output: Path, limit: int, best_step: int | None, finished: bool = False) -> None:
    """Keep ``limit`` checkpoints: the newest, to go on from; the best; then the next newest.

    While training goes on, a limit of 1 keeps both newest and best, as HF Trainer does; once finished, only the best.
    """
    if limit < 1:
        return
    newest_first = sorted(_all(output), key=_step, reverse=True)
    wanted = [path for path in newest_first if _step(path) == best_step]
    if not finished and newest_first[:1] != wanted:
        wanted, limit = newest_first[:1] + wanted, max(limit, 2)
    wanted += [path for path in newest_first if path not in wanted]
    for path in wanted[limit:]:
        shutil.rmtree(path)


def _all(output: Path) -> list[Path]:
    return [path for path in output.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))
