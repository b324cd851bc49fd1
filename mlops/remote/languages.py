"""Detects answers in another language than their question's: by script, by frequent words, and by letters.

No model is needed, so this is coarse: a short or ambiguous text has no language, so it isn't in another one either.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from mlops.remote.rouge import words

__all__ = ["has_other_language"]

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
_LETTERS = {
    # Letters beyond a–z that each language uses.
    "en": "", "de": "äöüß", "fr": "àâæçéèêëîïôœùûüÿ", "es": "áéíñóúü", "it": "àèéìíîòóùú", "pt": "áâãàçéêíóôõúü", "nl": "áéëèïíóöüú",
}  # fmt: skip
_NAMES = {
    "en": "english englisch anglais inglés inglese inglês engels",
    "de": "german deutsch allemand alemán tedesco alemão duits",
    "fr": "french französisch français francés francese francês frans",
    "es": "spanish spanisch espagnol español spagnolo espanhol spaans",
    "it": "italian italienisch italien italiano italiaans",
    "pt": "portuguese portugiesisch portugais portugués portoghese português portugees",
    "nl": "dutch niederländisch néerlandais neerlandés holandés olandese holandês nederlands",
    "": "arabic bengali bulgarian cantonese chinese czech danish esperanto finnish greek hebrew hindi hungarian indonesian japanese korean"
    " latin mandarin norwegian persian polish romanian russian swahili swedish tamil thai turkish ukrainian urdu vietnamese"
    " arabisch chinesisch japanisch polnisch russisch türkisch arabe chinois japonais polonais russe turc"
    " árabe chino japonés polaco ruso turco",
}
"""The names of languages in these languages. Languages without a code aren't distinguished."""
_CODES = {name: code for code, names in _NAMES.items() for name in names.split()}
_TRANSLATION = re.compile(r"\b(?:translat|übersetz|tradui|traduc|traduz|traduci|vertaal|vertal)\w*|翻译|翻訳|перев[её]", re.IGNORECASE)
MIN_FUNCTION_WORDS = 4
"""A text with fewer function words has no language."""
MIN_WORDS, MIN_FUNCTION_SHARE = 25, 0.03
"""Prose of this many words has a larger share of function words: 20 to 40 % in English."""
MIN_FOREIGN_LETTERS, FOREIGN_SHARE = 4, 0.02
FEW_FOREIGN_LETTERS, FEW_WORDS, FEW_FUNCTION_WORDS = 2, 10, 0.08
"""This many foreign letters are enough in a sentence with hardly any function words."""
MIN_OTHER_SCRIPT, OTHER_SHARE = 8, 0.25
MIN_VOWELLESS, VOWELLESS_SHARE = 3, 0.25
"""Maximum number of words of at least three letters without a vowel, because a few are abbreviations."""
_VOWELLESS = re.compile(r"\b[bcdfghjklmnpqrstvwxz]{3,}\b")
_CODE = re.compile(r"```|[{}<>=;|\\_]|\w\(")


def has_other_language(prompt: str, answer: str) -> bool:
    """Return whether the answer is in another script or language than the prompt, if both have one, or in none.

    An answer may be in a language that the prompt names, and in any if it asks for a translation without naming one.
    """
    script, answers = _script(prompt), _script(answer)
    if not script or not answers:
        return False
    named = {_CODES[word] for word in words(prompt) if word in _CODES}
    if "" in named or (not named and _TRANSLATION.search(prompt)):
        return False
    if script != answers or (not named and _has_passages_of_another_script(script, answer, prompt)):
        return True
    language, other = _language(prompt), _language(answer)
    if script != "LATIN" or not language:
        return False
    if other:
        return other not in {language, *named}
    return not named and _is_excluded(language, prompt, answer)


def _script(text: str) -> str:
    """Return the script of most letters by its Unicode name, e.g. ``LATIN``; empty if there are hardly any letters."""
    counts = _count_scripts(text)
    script, count = counts.most_common(1)[0] if counts else ("", 0)
    letters = counts.total()
    return script if letters >= 4 and count > letters / 2 else ""


def _count_scripts(text: str) -> Counter[str]:
    counts = Counter("LATIN" if letter.isascii() else unicodedata.name(letter, "UNKNOWN").split()[0] for letter in text if letter.isalpha())
    # Japanese mixes three scripts.
    for part in ("HIRAGANA", "KATAKANA"):
        if part in counts:
            counts["CJK"] += counts.pop(part)
    return counts


def _has_passages_of_another_script(script: str, answer: str, prompt: str) -> bool:
    # Latin words are part of texts in every script.
    others = _count_scripts(answer)
    letters = others.total()
    for expected in (script, "LATIN", *_count_scripts(prompt)):
        others.pop(expected, None)
    return others.total() >= max(MIN_OTHER_SCRIPT, OTHER_SHARE * letters)


def _language(text: str) -> str:
    word_counts = Counter(words(text))
    counts = sorted(((_count_function_words(word_counts, language), language) for language in _FUNCTION_WORDS), reverse=True)
    (most, language), (second, _) = counts[:2]
    return language if most >= MIN_FUNCTION_WORDS and most >= 2 * second else ""


def _count_function_words(word_counts: Counter[str], language: str) -> int:
    return sum(word_counts[word] for word in _FUNCTION_WORDS[language].split())


def _is_excluded(language: str, prompt: str, answer: str) -> bool:
    """Return whether an answer can't be in a language, by its letters, its words without vowels, or its lack of function words."""
    if _CODE.search(answer):
        return False
    letters = [letter for letter in unicodedata.normalize("NFC", answer).casefold() if letter.isalpha()]
    foreign = sum(not letter.isascii() and letter not in _LETTERS[language] and letter not in prompt.casefold() for letter in letters)
    if foreign >= max(MIN_FOREIGN_LETTERS, FOREIGN_SHARE * len(letters)):
        return True
    answer_words, is_list = words(answer), _is_list(answer)
    function_words = _count_function_words(Counter(answer_words), language)
    if (
        foreign >= FEW_FOREIGN_LETTERS
        and len(answer_words) >= FEW_WORDS
        and function_words < FEW_FUNCTION_WORDS * len(answer_words)
        and not is_list
    ):
        return True
    if len(_VOWELLESS.findall(answer)) >= max(MIN_VOWELLESS, VOWELLESS_SHARE * len(answer_words)):
        return True
    return len(answer_words) >= MIN_WORDS and not is_list and function_words < MIN_FUNCTION_SHARE * len(answer_words)


def _is_list(answer: str) -> bool:
    # A list has no function words either.
    return answer.count(",") + answer.count("\n") > len(words(answer)) / 6
