"""Scores compared with a slow reference: one sequence at a time, all logits, no padding, no batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.remote import likelihood
from mlops.remote.encoding import EncodedSequence, encode
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
def encoded(tokenizer: Any) -> list[tuple[EncodedSequence, ...]]:
    rows = [conversation(number, turns=1 + number % 3) for number in range(15)]
    return [encode(tokenizer, Row(row["prompt_id"], "", tuple(row["messages"])), 1000) for row in rows]


def greedy_continuation(model: Any, start: Sequence[int]) -> EncodedSequence:
    """Append the six tokens that the model itself would generate."""
    import torch

    ids = list(start)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return EncodedSequence(tuple(ids), (False,) * len(start) + (True,) * 6)


def reference(model: Any, base: Any, sequence: EncodedSequence) -> tuple[float, float, int]:
    """Sum NLL, KL and greedy matches token by token, by their definitions."""
    import torch

    with torch.no_grad():
        q, p = (each(torch.tensor([sequence.ids])).logits[0].double().softmax(-1) for each in (model, base))
    nll, kl, greedy = 0.0, 0.0, 0
    for position in range(1, len(sequence.ids)):
        if sequence.labeled[position]:
            before = position - 1
            nll -= float(q[before, sequence.ids[position]].log())
            kl += float((p[before] * (p[before] / q[before]).log()).sum())
            greedy += int(all(float(q[before, token]) <= float(q[before, sequence.ids[position]]) for token in range(q.shape[1])))
    return nll, kl, greedy


@pytest.mark.parametrize("batch_tokens", [1, 64, 300, 10_000])
def test_scores_equal_the_slow_reference(model: Any, base: Any, encoded: Any, batch_tokens: int) -> None:
    rows = [*encoded, *((greedy_continuation(model, sequence.ids[:9]),) for (sequence,) in encoded[:4])]
    scores = score(model, rows, batch_tokens=batch_tokens, base=base)
    for (sequence,), result in zip(rows, scores, strict=True):
        nll, kl, greedy = reference(model, base, sequence)
        assert result.tokens == sum(sequence.labeled) > 0
        assert result.nll == pytest.approx(nll, rel=1e-4)
        assert result.kl == pytest.approx(kl, rel=1e-4)
        assert result.greedy_tokens == greedy
    assert 0 < sum(result.greedy_tokens for result in scores) < sum(result.tokens for result in scores)


def test_processing_logits_in_steps_gives_the_same_scores(model: Any, base: Any, encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(model, encoded, batch_tokens=500, base=base)
    monkeypatch.setattr(likelihood, "_LOGITS_PER_STEP", 7 * 320)
    for one, other in zip(whole, score(model, encoded, batch_tokens=500, base=base), strict=True):
        assert (one.nll, one.kl) == pytest.approx((other.nll, other.kl), rel=1e-6)
        assert one.greedy_tokens == other.greedy_tokens


def test_a_model_does_not_diverge_from_itself(base: Any, encoded: Any) -> None:
    assert [result.kl for result in score(base, encoded, batch_tokens=200, base=base)] == [0.0] * len(encoded)


def test_without_a_base_there_is_no_divergence(model: Any, encoded: Any) -> None:
    assert {result.kl for result in score(model, encoded, batch_tokens=200)} == {None}


def test_several_sequences_of_a_row_are_summed(model: Any, encoded: Any) -> None:
    one, other = greedy_continuation(model, encoded[0][0].ids[:5]), greedy_continuation(model, encoded[1][0].ids[:7])
    separate = score(model, [(one,), (other,)], batch_tokens=500)
    (combined,) = score(model, [(one, other)], batch_tokens=500)
    assert combined.nll == pytest.approx(separate[0].nll + separate[1].nll)
    assert combined.tokens == separate[0].tokens + separate[1].tokens
    assert combined.greedy_tokens == separate[0].greedy_tokens + separate[1].greedy_tokens


def test_the_models_own_continuation_is_an_exact_match(model: Any, encoded: Any) -> None:
    """All tokens of a greedy continuation are first choices; with its first token replaced, they are not."""
    whole = greedy_continuation(model, encoded[0][0].ids[:5])
    other = EncodedSequence((*whole.ids[:5], (whole.ids[5] + 1) % 320, *whole.ids[6:]), whole.labeled)
    original, modified = score(model, [(whole,), (other,)], batch_tokens=100)
    assert (original.greedy_tokens, original.tokens) == (6, 6)
    assert modified.greedy_tokens < 6


def test_a_row_without_scored_tokens_has_zero_scores(model: Any, encoded: Any) -> None:
    unscored = EncodedSequence(encoded[0][0].ids, (False,) * len(encoded[0][0].ids))
    scores = score(model, [(unscored,), encoded[1]], batch_tokens=500)
    assert (scores[0].tokens, scores[0].nll, scores[0].greedy_tokens) == (0, 0.0, 0)
    assert scores[1] == score(model, [encoded[1]], batch_tokens=500)[0]


def test_the_hook_is_removed_afterwards(model: Any, encoded: Any) -> None:
    import torch

    score(model, encoded[:2], batch_tokens=500)
    assert model(torch.tensor([encoded[0][0].ids])).logits.shape == (1, len(encoded[0][0].ids), 320)


def test_vocabularies_of_different_size_are_refused(model: Any, tokenizer: Any, encoded: Any) -> None:
    with pytest.raises(RuntimeError, match="differ in vocabulary: 320 and 321"):
        score(model, encoded[:1], batch_tokens=500, base=make_model(tokenizer, seed=1, vocab_size=321))


def test_progress_reaches_the_number_of_rows(model: Any, encoded: Any) -> None:
    steps: list[int] = []
    score(model, encoded, batch_tokens=100, advance=steps.append)
    assert sum(steps) == len(encoded)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_batches_contain_every_sequence_once_and_respect_the_limit(lengths: list[int], batch_tokens: int) -> None:
    result = list(batches(lengths, batch_tokens))
    assert sorted(index for batch in result for index in batch) == list(range(len(lengths)))
    for batch in result:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens
    longest = [lengths[batch[0]] for batch in result]
    assert longest == sorted(longest, reverse=True)
