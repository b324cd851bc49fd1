"""Answers in the language of the question, in another one, and in none."""

from __future__ import annotations

import pytest

from mlops.remote.languages import has_other_language

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


POLISH = "Najlepszym sposobem jest trzymanie roślin w ciepłym miejscu i podlewanie ich raz w tygodniu, gdy ziemia jest sucha."
INDONESIAN = (
    "Cara terbaik adalah dengan naik bus kota karena murah dan cepat sampai tujuan tanpa harus menunggu terlalu lama setiap hari kerja"
    " maupun hari libur nasional sekalipun"
)
GIBBERISH = "asdf qwer zxcv tyui ghjk bnmm poiu lkjh"
CHINESE = "请把植物放在温暖的地方，每周浇一次水。"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (EN, POLISH),
        (EN, INDONESIAN),
        (EN, "Nejlepší je jet autobusem, protože vlaky dnes nejezdí a taxi je příliš drahé."),
        (DE, POLISH),
        (EN, GIBBERISH),
        (EN, "xkcd bcdf ghjk " * 10),
        (EN, f"You can take the bus. {CHINESE}"),
        (EN, f"{CHINESE} {CHINESE} bus"),
        (f"{EN} Please answer in French.", DE),
        ("Please translate this into German, and keep it short for the people that are here: I am ill.", FR),
        ("Where is the pharmacy, and what is the way to it? Answer in German.", "Лучше всего ехать на автобусе."),
    ],
)
def test_languages_without_a_list_of_words_and_gibberish_are_not_the_right_language(prompt: str, answer: str) -> None:
    assert has_other_language(prompt, answer)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Please translate this sentence to German for me: the house is on the hill and it is big", DE),
        ("How do you say that it is late and that you have to go in French?", FR),
        ("Translate this for me, and be quick about it: the bus is not on the way to the airport", DE),
        ("Write a poem about the sea in Chinese, and make it the best that you can.", CHINESE),
        ("What is the Polish for this: it is best to keep the plants in a warm place?", POLISH),
        ("Übersetze das bitte für mich ins Englische, es ist nicht lang und auch nicht schwer.", EN),
        (f"{EN} Please answer in French.", "You can take the bus, and it will be there in time for the plane."),
        (EN, "Apples, pears, plums, grapes, figs, dates, limes, kiwis, melons, cherries, apricots, peaches, quinces, lemons, bananas,"
         " mangos, papayas, guavas, oranges, berries, currants, nuts, raisins, olives, avocados, tomatoes"),
        (EN, "Try Café Zoë, near Müller Straße."),
        (EN, "Use HTML, CSS and SQL."),
        (EN, "```python\nfor x in xs:\n    print(x, str(x), tmp, cls, fmt)\n```"),
        (EN, '{"name": "Ann", "city": "Łódź", "tags": ["żółty", "ślad"]}'),
        (EN, "Its name is 東京, which means that it is the capital in the east."),
        ("Где аптека?", "Аптека Walgreens на улице Ленина."),
        (DE, "Über die Brücke, dann rückwärts; größere Züge fährt übrigens täglich die Süßwarenfabrik."),
        (EN, "Let π be the ratio, and α, β, γ the angles."),
        (EN, "Hmm, psst, shh!"),
    ],
)  # fmt: skip
def test_requested_translations_lists_names_and_code_are_not_another_language(prompt: str, answer: str) -> None:
    assert not has_other_language(prompt, answer)
