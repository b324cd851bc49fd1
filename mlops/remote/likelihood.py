"""Negative log-likelihood of what the assistant said, how much of it is the model's first choice, and how far a model drifted from its
base, per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.encoding import Encoded

__all__ = ["Score", "batches", "score"]

_LOGITS_AT_ONCE = 2**24
"""Elements of a float32 logit matrix that is in memory at a time (64 MiB)."""


@dataclass(frozen=True)
class Score:
    """Sums over one row's assistant tokens; nll and kl in nats."""

    tokens: int
    nll: float
    kl: float | None
    greedy_tokens: int
    """How many of the tokens are the model's first choice; the row is matched exactly (lm-evaluation-harness: ``is_greedy``) if all are."""


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences to run together: neighbours in length, longest first, ``batch_tokens`` tokens with padding.

    A sequence longer than that runs alone. Longest first, so that a batch that does not fit into memory is met at once.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score(
    model: Any, rows: Sequence[Sequence[Encoded]], *, batch_tokens: int, base: Any = None, advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """Score rows, in their order.

    Args:
        model: a causal language model in evaluation mode.
        rows: the sequences of each row (see :func:`mlops.remote.encoding.encode`).
        batch_tokens: tokens in a batch, padding included.
        base: where given, KL(base ‖ model) is summed over the same tokens.
        advance: called with the number of sequences done.
    """
    sequences = [(number, sequence) for number, row in enumerate(rows) for sequence in row if sequence.tokens]
    nll = [0.0] * len(rows)
    kl = [0.0] * len(rows)
    greedy = [0] * len(rows)
    for batch in batches([len(sequence.ids) for _, sequence in sequences], batch_tokens):
        scored = _score_batch(model, base, [sequences[index][1] for index in batch])
        for index, (batch_nll, batch_kl, batch_greedy) in zip(batch, scored, strict=True):
            nll[sequences[index][0]] += batch_nll
            kl[sequences[index][0]] += batch_kl
            greedy[sequences[index][0]] += batch_greedy
        advance(len(batch))
    tokens = [sum(sequence.tokens for sequence in row) for row in rows]
    return [Score(tokens[i], nll[i], None if base is None else kl[i], greedy[i]) for i in range(len(rows))]


def _score_batch(model: Any, base: Any, sequences: Sequence[Encoded]) -> list[tuple[float, float, int]]:
    import torch

    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    attention = torch.zeros_like(ids)
    labelled = torch.zeros(ids.shape, dtype=torch.bool)
    for number, sequence in enumerate(sequences):
        # Padding is on the right and behind the attention mask; which id it has does not matter.
        ids[number, : len(sequence.ids)] = torch.tensor(sequence.ids)
        attention[number, : len(sequence.ids)] = 1
        labelled[number, : len(sequence.ids)] = torch.tensor(sequence.labelled)
    ids, attention, labelled = (tensor.to(model.device) for tensor in (ids, attention, labelled))
    # The token at t is predicted at t - 1.
    predicting = torch.zeros_like(labelled)
    predicting[:, :-1] = labelled[:, 1:]
    targets = ids[labelled]
    owner = labelled.nonzero()[:, 0]
    with torch.inference_mode():
        logits = _logits(model, ids, attention, predicting)
        base_logits = None if base is None else _logits(base, ids, attention, predicting)
        sums = _sums(logits, base_logits, targets, owner, len(sequences))
    return list(zip(*(each.tolist() for each in sums), strict=True))


def _logits(model: Any, ids: Any, attention: Any, predicting: Any) -> Any:
    """Logits at the predicting positions only, in row-major order: shape [labelled tokens, vocabulary].

    Most of a forward pass through a small model with a large vocabulary is its head. The head's input is cut down by a hook, so
    whatever an architecture does to logits after its head (scaling, soft-capping) still happens.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise RuntimeError(f"{type(model).__name__} has no output embeddings: it is not a causal language model")
    handle = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][predicting], *inputs[1:]))
    try:
        logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    finally:
        handle.remove()
    if logits.ndim != 2 or logits.shape[0] != int(predicting.sum()):
        raise RuntimeError(f"{type(model).__name__} does more with its logits than its head: their shape is {tuple(logits.shape)}")
    return logits


def _sums(logits: Any, base_logits: Any, targets: Any, owner: Any, sequences: int) -> tuple[Any, Any, Any]:
    """Nll, kl and number of first choices of each sequence."""
    import torch

    if base_logits is not None and base_logits.shape != logits.shape:
        raise RuntimeError(f"model and base differ in vocabulary: {logits.shape[1]} and {base_logits.shape[1]} entries")
    nll = torch.zeros(sequences, dtype=torch.float64, device=logits.device)
    kl = torch.zeros_like(nll)
    greedy = torch.zeros(sequences, dtype=torch.long, device=logits.device)
    step = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        log_q = logits[part].float().log_softmax(-1)
        nll.index_add_(0, owner[part], -log_q.gather(1, targets[part, None])[:, 0].double())
        greedy.index_add_(0, owner[part], (log_q.argmax(-1) == targets[part]).long())
        if base_logits is not None:
            log_p = base_logits[part].float().log_softmax(-1)
            # A divergence is never negative; rounding may be.
            kl.index_add_(0, owner[part], (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0).double())
    return nll, kl, greedy
