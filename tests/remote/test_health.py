"""Empty answers and loops, and what only looks like one."""

from __future__ import annotations

import pytest

from mlops.remote.health import is_empty, is_loop, length_ratio


@pytest.mark.parametrize("answer", ["", "  \n", "...", "?!", "🙂", "<|assistant|>", "<|end|>\n<|end|>"])
def test_an_answer_without_letters_and_digits_is_empty(answer: str) -> None:
    assert is_empty(answer)


@pytest.mark.parametrize("answer", ["4", "Да", "No.", "你好", "a <|b", "<b>1</b>"])
def test_a_short_answer_is_not_empty(answer: str) -> None:
    assert not is_empty(answer)


SENTENCE = "The garden needs water every morning because the soil dries out quickly in the sun. "
DISTINCT = " ".join(f"word{number}" for number in range(400))
LOOPS = [
    "I am fine. I am fine. I am fine. I am fine.",
    "the moon the moon the moon the moon",
    "So good good good good good good good",
    "We went to the market to buy some bread, then we went to the market to buy some bread, then we went to the market to buy some bread",
    "Paris is nice. " + "You should see the tower and the river and the many old streets near the museum of modern art. " * 4,
    SENTENCE * 3,
    f"{DISTINCT} {SENTENCE * 20}",
    " ".join(f"w{number}" for number in range(80)) * 3,
    f"{DISTINCT} " + " ".join([f"w{number}" for number in range(100)] * 3),
    "你好吗" * 60,
    "今天的天气很好，我们一起去公园散步吧。" * 4,
    "今天的天气很好我们一起去公园散步吧真的非常开心啊朋友" * 4,
    "สวัสดีครับ" * 40,
    "ありがとうございます。" * 10,
    "a" * 500,
    "It is " + "abcab" * 20,
    "!?" * 300,
    "-" * 400,
    "-- " * 3 + "yes,no," * 30,
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
        SENTENCE * 2,
        " ".join([f"w{number}" for number in range(100)] * 2),
        "| name | age |\n|---|---|\n| Ann | 31 |\n\n" + "-" * 120,
        "A googol is 1" + "0" * 100 + ".",
        "Nooooooooooo! Hahahahahaha!",
        "哈哈哈哈哈哈，真好玩。",
        "请先选择一个比原来大两号的花盆，在排水孔上放一些碎瓷片，轻轻松开外面的根，然后用肥沃的柑橘土填满四周，浇透水，在头十天里不要让它吹到风。",
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย ตั้งอยู่บนแม่น้ำเจ้าพระยา และมีประชากรมากที่สุดในประเทศ อาหารริมทางของเมืองนี้มีชื่อเสียงไปทั่วโลก",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    ],
)
def test_emphasis_is_not_a_loop(answer: str) -> None:
    assert not is_loop(answer)


def test_the_length_is_compared_with_the_reference() -> None:
    assert length_ratio("one two", "one two three four") == 0.5
    assert length_ratio("", "one") == 0
    assert length_ratio("a " * 500, "one") == 10
    assert length_ratio("a b", "") == 2
