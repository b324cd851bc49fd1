"""Look at the prepared data: statistics of each split, and conversations as a chat.

mlops data show --split test_sft --rows 3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mlops.cli import stage
from mlops.core import console
from mlops.core.records import Prepared
from mlops.core.run import Run
from mlops.dataset.conversation import SPLITS, Conversation, read_jsonl

__all__ = ["conversations", "main", "statistics"]

MAX_TEXT = 1200
"""Longer messages are cut after this many characters."""


def main(argv: Sequence[str]) -> int:
    """Show statistics and conversations of the prepared data."""
    parser = stage.parser(__doc__ or "", prog="mlops data")
    parser.add_argument("action", choices=["show"], help="show: print statistics and conversations")
    parser.add_argument("--split", choices=SPLITS, default="train_sft", help="the split whose conversations are shown (default: train_sft)")
    parser.add_argument("--rows", type=int, default=1, metavar="N", help="number of conversations (default: 1)")
    arguments = parser.parse_args(argv)

    def show() -> stage.Answer:
        run = Run(arguments.run)
        record = run.read(Prepared)
        chosen = list(islice(conversations(run, record, arguments.split), max(0, arguments.rows)))
        numbers = {split: statistics(record, run, split) for split in SPLITS}
        rows = [{"where": where, "messages": [[message.role, message.content] for message in row.messages]} for where, row in chosen]
        lines = [f"{record.dataset} ({record.revision}), data fingerprint {record.fingerprint[:12]}\n", *_render_statistics(numbers)]
        for where, row in chosen:
            lines += [f"\n▸ {where}", console.columns([(message.role, _shorten(message.content)) for message in row.messages])]
        return stage.Answer({"dataset": record.dataset, "splits": numbers, "conversations": rows}, "\n".join(lines))

    return stage.finish(show, as_json=arguments.json)


def statistics(record: Prepared, run: Run, split: str) -> dict[str, Any]:
    """Return numbers about a split: rows, messages and characters per conversation, and what was left out."""
    frame = record.frame(split, run.directory)
    messages = frame["messages"].map(len)
    characters = frame["messages"].map(lambda turns: sum(len(turn["content"]) for turn in turns))
    answers = frame["messages"].map(lambda turns: sum(len(turn["content"]) for turn in turns if turn["role"] == "assistant"))
    return {
        "format": record.formats.get(split, ""),
        "rows": len(frame),
        "messages_median": float(messages.median()),
        "messages_max": int(messages.max()),
        "characters_median": float(characters.median()),
        "characters_p95": float(characters.quantile(0.95)),
        "characters_max": int(characters.max()),
        "answer_share": round(float(answers.sum() / characters.sum()), 3),
        "system_share": round(float(frame["messages"].map(lambda turns: turns[0]["role"] == "system").mean()), 3),
        "left_out": record.dropped.get(split, {}),
    }


def conversations(run: Run, record: Prepared, split: str) -> Iterator[tuple[str, Conversation]]:
    """Yield the conversations of a split with their places in the source."""
    places = (run.directory / record.files[f"origin.{split}"].path).read_text(encoding="utf-8").split("\n")
    for number, row in read_jsonl(record.path(split, run.directory)):
        if isinstance(row, Conversation):
            yield places[number - 1], row


def _render_statistics(numbers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    names = [name for name in next(iter(numbers.values())) if name != "left_out"]
    rows = [(name.replace("_", " "), *(_cell(split[name]) for split in numbers.values())) for name in names]
    yield console.columns(rows, ("", *numbers), indent=0, numbers=True)
    for split, row in numbers.items():
        if row["left_out"]:
            yield f"left out of {split}: {', '.join(f'{count:,} {reason}' for reason, count in row['left_out'].items())}"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text):,} characters)"
