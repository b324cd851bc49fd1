"""Detects faults of a generated answer that can be seen without understanding it.

Likelihood shows none of them: a model that never stops, or that repeats one sentence, can assign a high probability to good answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mlops.remote.rouge import words

__all__ = ["is_empty", "is_loop", "length_ratio"]

REPETITIONS = 3
MIN_REPEATED_WORDS = 6
"""Minimum length of a loop, so that "no, no, no" and "ha ha ha" don't count."""
DISTINCT_RUN, MIN_DISTINCT, MIN_WORDS = 3, 0.5, 20
"""An answer of some length loops if fewer than half of its runs of three words are different (distinct-3)."""
MIN_REPEATED_CHARACTERS, DISTINCT_CHARACTERS, MIN_CHARACTERS = 24, 10, 60
"""The limit for characters of a script that doesn't separate words."""
LONG_REPETITION, LONGEST_RULE = 40, 200
"""Minimum length in characters: "Nooooo!" and a line of dashes aren't loops."""
MAX_LENGTH_RATIO = 10.0
_UNSEPARATED = re.compile("[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""A letter of Thai, Lao, Tibetan, Burmese, Khmer, Japanese or Chinese."""
_REPETITION = re.compile(r"(\S{1,20}?)\1{4,}")
_CONTROL_TOKEN = re.compile(r"<\|[^|<>]*\|>")


def is_empty(answer: str) -> bool:
    """Return whether the answer says nothing: no letter and no digit, apart from control tokens such as ``<|end|>``."""
    return not words(_CONTROL_TOKEN.sub("", answer))


def is_loop(answer: str) -> bool:
    """Return whether the answer repeats itself: a passage three times in a row, or too few different runs of words."""
    # A script that doesn't separate words is compared by character. Three characters say less than three words.
    by_character = len(_UNSEPARATED.findall(answer)) > len(answer) / 4
    answer_words = words(_UNSEPARATED.sub(r" \g<0> ", answer) if by_character else answer)
    if _has_period(answer_words, MIN_REPEATED_CHARACTERS if by_character else MIN_REPEATED_WORDS) or _repeats_characters(answer):
        return True
    run, fewest = (DISTINCT_CHARACTERS, MIN_CHARACTERS) if by_character else (DISTINCT_RUN, MIN_WORDS)
    runs = list(zip(*(answer_words[offset:] for offset in range(run)), strict=False))
    return len(answer_words) >= fewest and len(set(runs)) < MIN_DISTINCT * len(runs)


def _has_period(answer_words: Sequence[str], fewest: int) -> bool:
    """Return whether a passage of any length follows itself twice, and has at least this many words in all."""
    # If it does, the same three words occur one passage earlier, so only such distances are tried.
    last: dict[tuple[str, str, str], int] = {}
    distances: Counter[int] = Counter()
    for place, three in enumerate(zip(answer_words, answer_words[1:], answer_words[2:], strict=False)):
        if three in last:
            distances[place - last[three]] += 1
        last[three] = place
    for period, count in distances.items():
        # Word i is equal to the word one period before it. This must go on for two more periods than the first.
        needed = max(period * REPETITIONS, fewest) - period
        if count < 2 or needed + period > len(answer_words):
            continue
        run = 0
        for one, other in zip(answer_words, answer_words[period:], strict=False):
            run = run + 1 if one == other else 0
            if run >= needed:
                return True
    return False


def _repeats_characters(answer: str) -> bool:
    """Return whether a few characters are repeated for long, as in "aaaa" or "!?!?". Numbers and horizontal rules may."""
    return any(
        len(match[0]) >= (LONG_REPETITION if re.search(r"[^\W\d_]", match[1]) else LONGEST_RULE) for match in _REPETITION.finditer(answer)
    )


def length_ratio(answer: str, reference: str) -> float:
    """Return the answer's number of words as a multiple of the reference's, at most 10."""
    return min(MAX_LENGTH_RATIO, len(words(answer)) / max(1, len(words(reference))))
