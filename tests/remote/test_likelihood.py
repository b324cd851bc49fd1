"""Scores against a slow reference: one sequence at a time, all logits, no padding, no buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.remote import likelihood
from mlops.remote.encoding import Encoded, encode
from mlops.remote.likelihood import batches, score
from mlops.remote.suites import Row
from tests.support.tiny import conversation, make_model, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return make_model(tokenizer, seed=1)


@pytest.fixture(scope="module")
def base(tokenizer: Any) -> Any:
    return make_model(tokenizer, seed=2)


@pytest.fixture(scope="module")
def encoded(tokenizer: Any) -> list[tuple[Encoded, ...]]:
    made = [conversation(number, turns=1 + number % 3) for number in range(15)]
    return [encode(tokenizer, Row(row["prompt_id"], "", tuple(row["messages"])), 1000) for row in made]


def continued(model: Any, start: Sequence[int]) -> Encoded:
    """Six tokens that the model itself would say next."""
    import torch

    ids = list(start)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return Encoded(tuple(ids), (False,) * len(start) + (True,) * 6)


def reference(model: Any, base: Any, sequence: Encoded) -> tuple[float, float, int]:
    """Summed token by token, by the definitions."""
    import torch

    with torch.no_grad():
        q, p = (each(torch.tensor([sequence.ids])).logits[0].double().softmax(-1) for each in (model, base))
    nll, kl, greedy = 0.0, 0.0, 0
    for position in range(1, len(sequence.ids)):
        if sequence.labelled[position]:
            before = position - 1
            nll -= float(q[before, sequence.ids[position]].log())
            kl += float((p[before] * (p[before] / q[before]).log()).sum())
            greedy += int(all(float(q[before, token]) <= float(q[before, sequence.ids[position]]) for token in range(q.shape[1])))
    return nll, kl, greedy


@pytest.mark.parametrize("batch_tokens", [1, 64, 300, 10_000])
def test_scores_are_those_of_the_slow_reference(model: Any, base: Any, encoded: Any, batch_tokens: int) -> None:
    rows = [*encoded, *((continued(model, sequence.ids[:9]),) for (sequence,) in encoded[:4])]
    found = score(model, rows, batch_tokens=batch_tokens, base=base)
    for (sequence,), made in zip(rows, found, strict=True):
        nll, kl, greedy = reference(model, base, sequence)
        assert made.tokens == sum(sequence.labelled) > 0
        assert made.nll == pytest.approx(nll, rel=1e-4)
        assert made.kl == pytest.approx(kl, rel=1e-4)
        assert made.greedy_tokens == greedy
    assert 0 < sum(made.greedy_tokens for made in found) < sum(made.tokens for made in found)


def test_logits_in_pieces_give_the_same(model: Any, base: Any, encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(model, encoded, batch_tokens=500, base=base)
    monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", 7 * 320)
    for one, other in zip(whole, score(model, encoded, batch_tokens=500, base=base), strict=True):
        assert (one.nll, one.kl) == pytest.approx((other.nll, other.kl), rel=1e-6)
        assert one.greedy_tokens == other.greedy_tokens


def test_a_model_does_not_diverge_from_itself(base: Any, encoded: Any) -> None:
    assert [made.kl for made in score(base, encoded, batch_tokens=200, base=base)] == [0.0] * len(encoded)


def test_without_a_base_there_is_no_divergence(model: Any, encoded: Any) -> None:
    assert {made.kl for made in score(model, encoded, batch_tokens=200)} == {None}


def test_several_sequences_of_a_row_are_summed(model: Any, encoded: Any) -> None:
    one, other = continued(model, encoded[0][0].ids[:5]), continued(model, encoded[1][0].ids[:7])
    apart = score(model, [(one,), (other,)], batch_tokens=500)
    (together,) = score(model, [(one, other)], batch_tokens=500)
    assert together.nll == pytest.approx(apart[0].nll + apart[1].nll)
    assert together.tokens == apart[0].tokens + apart[1].tokens
    assert together.greedy_tokens == apart[0].greedy_tokens + apart[1].greedy_tokens


def test_what_the_model_would_have_said_is_matched_exactly(model: Any, encoded: Any) -> None:
    """The greedy continuation of a question, scored, is all first choices; with its first token exchanged it is not."""
    whole = continued(model, encoded[0][0].ids[:5])
    other = Encoded((*whole.ids[:5], (whole.ids[5] + 1) % 320, *whole.ids[6:]), whole.labelled)
    said, exchanged = score(model, [(whole,), (other,)], batch_tokens=100)
    assert (said.greedy_tokens, said.tokens) == (6, 6)
    assert exchanged.greedy_tokens < 6


def test_a_row_without_scored_tokens_has_none(model: Any, encoded: Any) -> None:
    silent = Encoded(encoded[0][0].ids, (False,) * len(encoded[0][0].ids))
    found = score(model, [(silent,), encoded[1]], batch_tokens=500)
    assert (found[0].tokens, found[0].nll, found[0].greedy_tokens) == (0, 0.0, 0)
    assert found[1] == score(model, [encoded[1]], batch_tokens=500)[0]


def test_the_hook_is_gone_afterwards(model: Any, encoded: Any) -> None:
    import torch

    score(model, encoded[:2], batch_tokens=500)
    assert model(torch.tensor([encoded[0][0].ids])).logits.shape == (1, len(encoded[0][0].ids), 320)


def test_vocabularies_of_different_size_are_refused(model: Any, tokenizer: Any, encoded: Any) -> None:
    with pytest.raises(RuntimeError, match="differ in vocabulary: 320 and 321"):
        score(model, encoded[:1], batch_tokens=500, base=make_model(tokenizer, seed=1, vocab_size=321))


def test_all_rows_are_told_as_done(model: Any, encoded: Any) -> None:
    told: list[int] = []
    score(model, encoded, batch_tokens=100, advance=told.append)
    assert sum(told) == len(encoded)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_batches_hold_every_sequence_once_and_keep_the_limit(lengths: list[int], batch_tokens: int) -> None:
    found = list(batches(lengths, batch_tokens))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens
    longest = [lengths[batch[0]] for batch in found]
    assert longest == sorted(longest, reverse=True)
