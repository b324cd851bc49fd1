"""Per-row scores: negative log-likelihood, greedy matches, and KL divergence from the base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.encoding import EncodedSequence

__all__ = ["Score", "batches", "score"]

_LOGITS_PER_STEP = 2**24
"""Elements of the float32 logit matrix that are processed at a time (64 MiB)."""


@dataclass(frozen=True)
class Score:
    """Sums over one row's assistant tokens; nll and kl in nats."""

    tokens: int
    nll: float
    kl: float | None
    greedy_tokens: int
    """Number of tokens that are the model's first choice. If all are, the row is an exact match (lm-evaluation-harness: ``is_greedy``)."""


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group sequences of similar length into batches of at most ``batch_tokens`` tokens, padding included, and yield their indices.

    A longer sequence forms a batch of its own. The longest come first, so that running out of memory happens at the start.
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
    model: Any,
    rows: Sequence[Sequence[EncodedSequence]],
    *,
    batch_tokens: int,
    base: Any = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Score]:
    """Score the rows and return one score per row, in order.

    Args:
        model: a causal language model in evaluation mode.
        rows: the sequences of each row (see :func:`mlops.remote.encoding.encode`).
        batch_tokens: the limit for a batch, padding included.
        base: the base model; if present, KL(base ‖ model) is summed over the same tokens.
        advance: called with the number of completed sequences.
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


def _score_batch(model: Any, base: Any, sequences: Sequence[EncodedSequence]) -> list[tuple[float, float, int]]:
    import torch

    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    attention = torch.zeros_like(ids)
    labeled = torch.zeros(ids.shape, dtype=torch.bool)
    for number, sequence in enumerate(sequences):
        # Padding is on the right and masked out, so its token id does not matter.
        ids[number, : len(sequence.ids)] = torch.tensor(sequence.ids)
        attention[number, : len(sequence.ids)] = 1
        labeled[number, : len(sequence.ids)] = torch.tensor(sequence.labeled)
    ids, attention, labeled = (tensor.to(model.device) for tensor in (ids, attention, labeled))
    # The logits at position t - 1 predict the token at t.
    predicting = torch.zeros_like(labeled)
    predicting[:, :-1] = labeled[:, 1:]
    targets = ids[labeled]
    owner = labeled.nonzero()[:, 0]
    with torch.inference_mode():
        logits = _logits(model, ids, attention, predicting)
        base_logits = None if base is None else _logits(base, ids, attention, predicting)
        sums = _sum_scores(logits, base_logits, targets, owner, len(sequences))
    return list(zip(*(each.tolist() for each in sums), strict=True))


def _logits(model: Any, ids: Any, attention: Any, predicting: Any) -> Any:
    """Compute the logits at the predicting positions only, in row-major order: shape [labeled tokens, vocabulary].

    In a small model with a large vocabulary, the output head takes most of the forward pass. A hook reduces the head's input, so
    whatever an architecture does to the logits afterwards (scaling, soft-capping) still happens.
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
        raise RuntimeError(
            f"{type(model).__name__} does not compute its logits in its output head alone: their shape is {tuple(logits.shape)}"
        )
    return logits


def _sum_scores(logits: Any, base_logits: Any, targets: Any, owner: Any, sequences: int) -> tuple[Any, Any, Any]:
    """Sum NLL, KL and greedy matches over each sequence."""
    import torch

    if base_logits is not None and base_logits.shape != logits.shape:
        raise RuntimeError(f"model and base differ in vocabulary: {logits.shape[1]} and {base_logits.shape[1]} entries")
    nll = torch.zeros(sequences, dtype=torch.float64, device=logits.device)
    kl = torch.zeros_like(nll)
    greedy = torch.zeros(sequences, dtype=torch.long, device=logits.device)
    step = max(1, _LOGITS_PER_STEP // logits.shape[1])
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        log_q = logits[part].float().log_softmax(-1)
        nll.index_add_(0, owner[part], -log_q.gather(1, targets[part, None])[:, 0].double())
        greedy.index_add_(0, owner[part], (log_q.argmax(-1) == targets[part]).long())
        if base_logits is not None:
            log_p = base_logits[part].float().log_softmax(-1)
            # A divergence is never negative, but rounding can make it so.
            kl.index_add_(0, owner[part], (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0).double())
    return nll, kl, greedy
