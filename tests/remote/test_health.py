from __future__ import annotations

import pytest

from mlops.remote.health import has_other_language, is_empty, is_loop, is_refusal, length_ratio


@pytest.mark.parametrize("answer", ["", "  \n", "...", "?!", "🙂"])
def test_an_answer_without_letters_and_digits_is_empty(answer: str) -> None:
    assert is_empty(answer)


@pytest.mark.parametrize("answer", ["4", "Да", "No."])
def test_a_short_answer_is_not_empty(answer: str) -> None:
    assert not is_empty(answer)


LOOPS = [
    "I am fine. I am fine. I am fine. I am fine.",
    "the moon the moon the moon the moon",
    "So good good good good good good good",
    "We went to the market to buy some bread, then we went to the market to buy some bread, then we went to the market to buy some bread",
    "Paris is nice. " + "You should see the tower and the river and the many old streets near the museum of modern art. " * 4,
    "I like it, and you like it, and they like it, and I like it, and they like it, and you like it, and I like it, and you like it",
]


@pytest.mark.parametrize("answer", LOOPS)
def test_an_answer_that_repeats_itself_is_a_loop(answer: str) -> None:
    assert is_loop(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "No, no, no! Ha ha ha.",
        "One, two, three, one, two, three.",
        "The cat sat on the mat, and the dog sat next to the cat. The bird looked at the cat and the dog, and the three of them had lunch.",
        "",
        "word",
    ],
)
def test_an_emphasis_is_no_loop(answer: str) -> None:
    assert not is_loop(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I cannot assist with this request.",
        "I cannot provide instructions for that.",
        "I am unable to help you.",
        "As an AI language model, I don't have opinions.",
        "Sorry. I won't answer that question.",
        "I’m not able to help with breaking into a network.",
        "I can't write that, because it would be used to cheat people.",
        "I won't tell you how to open a lock that isn't yours.",
        "I'd rather not. How about something to cheer for your team instead?",
        "I must decline this request.",
        "Sorry, I don't have access to your accounts.",
        "I cannot in good conscience provide that.",
        "I'm not comfortable with that.",
    ],
)
def test_a_refusal_is_recognized(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that! What happened?",
        "I can't wait for the summer.",
        "You can't help it, can you?",
        "I am afraid of spiders.",
        "I cannot believe it's already Monday.",
        "I'm sorry that I'm late.",
        "I'm afraid I can't come this time, but I hope that we can meet soon.",
        "I won't tell anyone, I promise.",
        "I can't tell you how happy I am!",
        "I can't give up now.",
        "I couldn't help laughing.",
        "Sure, here is the recipe. " + "Stir well and wait. " * 12 + "I can't help loving it.",
    ],
)
def test_small_talk_is_no_refusal(answer: str) -> None:
    assert not is_refusal(answer)


EN = "What is the best way to get to the airport from here, and how long will it take?"
DE = "Der Bus ist nicht teuer, und du bist mit ihm in einer halben Stunde auf dem Flughafen, wenn die Straße frei ist."
FR = "Vous pouvez prendre le bus, qui est dans la rue, et vous êtes à l'aéroport avec une heure pour les valises."


@pytest.mark.parametrize(("prompt", "answer"), [(EN, DE), (EN, FR), (DE, FR), (EN, "Лучше всего ехать на автобусе."), ("Где аптека?", EN)])
def test_another_language_is_recognized(prompt: str, answer: str) -> None:
    assert has_other_language(prompt, answer)


@pytest.mark.parametrize(
    ("prompt", "answer"), [(EN, "By bus. It is the cheapest way to get there, and you will have time."), (DE, DE), (EN, "Bus!"),
                           (EN, "Voilà!"), ("", DE), (EN, ""), ("東京はどこですか", "とうきょうはにほんにあります")],
)  # fmt: skip
def test_the_same_or_an_unclear_language_is_not_another_one(prompt: str, answer: str) -> None:
    assert not has_other_language(prompt, answer)


def test_the_length_is_compared_with_the_reference() -> None:
    assert length_ratio("one two", "one two three four") == 0.5
    assert length_ratio("", "one") == 0
    assert length_ratio("a " * 500, "one") == 10
    assert length_ratio("a b", "") == 2
