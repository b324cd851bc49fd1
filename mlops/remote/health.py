"""What is wrong with a generated answer, as far as it can be seen without understanding it.

Likelihood does not see any of this: a model that never stops, or that repeats one sentence, can assign a high probability to good answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from mlops.remote.rouge import words

__all__ = ["has_other_language", "is_empty", "is_loop", "is_refusal", "length_ratio"]

LONGEST_PERIOD = 12
"""In words. A longer passage that is repeated is found by the share of different runs of words."""
REPETITIONS = 3
MIN_REPEATED_WORDS = 6
"""So that "no, no, no" and "ha ha ha" are not loops."""
DISTINCT_RUN, MIN_DISTINCT, MIN_WORDS = 3, 0.5, 20
"""An answer of some length loops if fewer than half of its runs of three words are different (distinct-3)."""
MAX_LENGTH_RATIO = 10.0

_UNABLE = r"(?:can(?:'t|not| not)|could(?:n't| not)|won't|will not|(?:am|'m) (?:not able|unable) to)"
_ABOUT = (
    # What a refusal is about: "I can't wait" and "I won't tell anyone" are none.
    r"(?:assist|answer|provide|comply|fulfil|continue with|engage in|discuss|respond to|participate|take part|condone|encourage|facilitate"
    r"|promote|generate|create|support (?:that|this|you)|help(?! (?:it|but|feeling|thinking|loving|laughing|smiling|wondering))"
    r"|(?:do|write|give|tell|show|teach|share|explain|describe|offer|recommend|reveal)(?: you| him| her| them| anyone)?"
    r" (?:that|this|those|these|such|instructions|information|details|advice|any|how to|an?|private|personal|something)\b)"
)
_REFUSAL = re.compile(
    rf"\bi(?: really| simply| just| also)? ?{_UNABLE} (?:in good conscience )?{_ABOUT}"
    rf"|\bsorry\b,?(?: but)? i ?(?:{_UNABLE}|must|don't feel|don't have)"
    r"|\bi(?:'d| would) (?:rather|prefer) not\b|\bi don't feel comfortable\b|\bi(?:'m| am) not comfortable\b"
    r"|\bi (?:must|have to|need to) (?:decline|refuse)\b|\bi (?:refuse|decline) to\b"
    r"|\bas an? (?:ai|artificial|language)\b[^.]{0,80}\b(?:can(?:'t|not)|unable|not able|do not|don't)",
    re.IGNORECASE,
)
_OPENING = 200
"""In characters. A refusal is at the beginning."""

_FUNCTION_WORDS = {
    # The most frequent words of each language. Some are in two lists; a language must have twice as many as the next.
    "en": "the and is are was of to in that it you for with this have be not on what can your will there they from",
    "de": "der die das und ist nicht ich du sie es ein eine mit auf für den von zu wie auch wir sind haben dass",
    "fr": "le la les et est pas je vous un une des que pour dans avec sur qui ce nous sont être mais du au",
    "es": "el la los las y es no que en un una por con para su como pero más este está son del muy también",
    "it": "il la gli e è non che di un una per con sono come più anche del della questo ma ho nel alla si",
    "pt": "o a os as e é não que de um uma para com como mais do da em são isso você por no na foi",
    "nl": "de het een en is niet ik je dat van in op te voor met zijn er maar ook we die heb naar als",
}
MIN_FUNCTION_WORDS = 4
"""A text with fewer function words has no language."""


def is_empty(answer: str) -> bool:
    """Return whether the answer says nothing: no letter and no digit."""
    return not words(answer)


def is_loop(answer: str) -> bool:
    """Return whether the answer repeats itself: a passage three times in a row, or too few different runs of words."""
    said = words(answer)
    for period in range(1, min(LONGEST_PERIOD, len(said) // REPETITIONS) + 1):
        # Word i is equal to the word one period before it. This must go on for two more periods than the first.
        needed = max(period * REPETITIONS, MIN_REPEATED_WORDS) - period
        run = 0
        for one, other in zip(said, said[period:], strict=False):
            run = run + 1 if one == other else 0
            if run >= needed:
                return True
    runs = list(zip(*(said[offset:] for offset in range(DISTINCT_RUN)), strict=False))
    return len(said) >= MIN_WORDS and len(set(runs)) < MIN_DISTINCT * len(runs)


def is_refusal(answer: str) -> bool:
    """Return whether the answer refuses, in English. A harmless question, as those of the target suite, must not be refused."""
    return _REFUSAL.search(answer.replace("’", "'")[:_OPENING]) is not None


def has_other_language(prompt: str, answer: str) -> bool:
    """Return whether the answer is in another script or language than the prompt, if both have one.

    Languages in Latin script are recognized by their most frequent words. A short or ambiguous text has no language, and so no other one.
    """
    scripts = _script(prompt), _script(answer)
    if "" in scripts:
        return False
    if scripts[0] != scripts[1]:
        return True
    languages = _language(prompt), _language(answer)
    return scripts[0] == "LATIN" and "" not in languages and languages[0] != languages[1]


def length_ratio(answer: str, reference: str) -> float:
    """Return the answer's number of words as a multiple of the reference's, at most 10."""
    return min(MAX_LENGTH_RATIO, len(words(answer)) / max(1, len(words(reference))))


def _script(text: str) -> str:
    """Return the script of most letters by its Unicode name, e.g. ``LATIN``; empty if there are hardly any letters."""
    letters = [letter for letter in text if letter.isalpha()]
    counts = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)
    # Japanese mixes three scripts.
    for part in ("HIRAGANA", "KATAKANA"):
        counts["CJK"] += counts.pop(part, 0)
    script, count = counts.most_common(1)[0] if letters else ("", 0)
    return script if len(letters) >= 4 and count > len(letters) / 2 else ""


def _language(text: str) -> str:
    said = Counter(words(text))
    counts = sorted(((sum(said[word] for word in words.split()), language) for language, words in _FUNCTION_WORDS.items()), reverse=True)
    (most, language), (second, _) = counts[:2]
    return language if most >= MIN_FUNCTION_WORDS and most >= 2 * second else ""
