"""One model over one split: its answers, their quality and cost, as rows of Records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cat.config import ModelConfig
from cat.decode import Forced, Generation, Progress, forced_all, generate_all
from cat.example import Example
from cat.flops import forward_flops
from cat.models.decoder import Decoder
from cat.quality import quality
from cat.tokenizers import Tokenizer
from routers.errors import InputError
from routers.schema import COLUMNS


def score(
    model: Decoder,
    model_config: ModelConfig,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    model_name: str,
    split: str,
    metric: str,
    max_response_tokens: int,
    topk: int,
    batch_size: int,
    progress: Progress | None = None,
) -> pa.Table:
    """Greedy answers to all examples with every token column, one row per example.

    The prompt is ``tokenizer.frame`` of it, the response what follows, ``<eos>`` included, at
    most ``max_response_tokens`` long; ``prompt_tokens`` and ``response_tokens`` count exactly
    those, and ``flops`` is the exact forward cost of generating them (the teacher-forced pass
    is measurement and charged to nobody). Quality is that of the decoded response.

    Args:
        model: on the current mesh (``cat.mesh.shard_params``).
        model_config: its sizes, for ``flops``.
        examples: prompts and targets; ids must be unique.
        tokenizer: the one the model was trained with.
        model_name: the ``model`` column.
        split: train, validation or test.
        metric: a metric of ``cat.quality``.
        max_response_tokens: the generation limit, end-of-sequence included.
        topk: largest log-probabilities kept per token.
        batch_size: rows at a time, a multiple of the mesh's data x fsdp.
        progress: called with (examples done, examples in all) while generating.

    Returns:
        A table with the columns and types of Records, without those a model does not tell:
        latency, dollars, sampled answers.

    Raises:
        InputError: no examples, duplicate ids, or a tokenizer that does not fit the model.
    """
    _check(model_config, examples, tokenizer)
    prompts, references = _encode(examples, tokenizer)
    sizes: dict[str, Any] = dict(topk=topk, batch_size=batch_size)
    own = generate_all(
        model,
        prompts,
        max_new=max_response_tokens,
        eos_id=tokenizer.ends,
        progress=progress,
        **sizes,
    )
    given = forced_all(model, prompts, references, **sizes)
    prompt_tokens = np.array([len(ids) for ids in prompts])
    answered = zip(examples, own.tokens, own.lengths, strict=True)
    responses = [tokenizer.read(example.prompt, ids[:n]) for example, ids, n in answered]
    graded = zip(responses, examples, strict=True)
    columns = {
        "query_id": [example.id for example in examples],
        "task": [example.task for example in examples],
        "split": [split] * len(examples),
        "model": [model_name] * len(examples),
        "prompt": [example.prompt for example in examples],
        "reference": [example.target for example in examples],
        "response": responses,
        "quality": [quality(metric, response, example) for response, example in graded],
        "prompt_tokens": prompt_tokens,
        "response_tokens": own.lengths,
        "flops": forward_flops(model_config, prompt_tokens, own.lengths),
        **_own_columns(own),
        **_forced_columns(given, np.array([len(ids) for ids in references])),
    }
    found = {name: kind for name, kind in COLUMNS.items() if name in columns}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in found.items()})


def _check(config: ModelConfig, examples: Sequence[Example], tokenizer: Tokenizer) -> None:
    if len({example.id for example in examples}) != len(examples):
        raise InputError("examples share an id; give every example of a split its own")
    tokenizer.check_fits(config.vocab_size, "model to score")


def _encode(
    examples: Sequence[Example], tokenizer: Tokenizer
) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses as in training rows."""
    prompts = [example.prompt for example in examples]
    targets = [example.target for example in examples]
    return tokenizer.frame(prompts), tokenizer.close(prompts, targets)


def _own_columns(own: Generation) -> dict[str, pa.Array]:
    """Token columns of the generated response, and the embeddings."""
    lengths = np.asarray(own.lengths)
    return {
        "token_logprob": _per_token(own.statistics.logprob, lengths),
        "token_entropy": _per_token(own.statistics.entropy, lengths),
        "topk_logprob": _per_token(own.statistics.topk_logprob, lengths),
        "prompt_embedding": _nested(own.prompt_embedding),
        "response_embedding": _nested(own.response_embedding),
    }


def _forced_columns(given: Forced, lengths: np.ndarray) -> dict[str, pa.Array]:
    """Token columns of the reference, teacher-forced."""
    return {
        "forced_logprob": _per_token(given.statistics.logprob, lengths),
        "forced_hit": _per_token(given.hit, lengths),
        "forced_topk_logprob": _per_token(given.statistics.topk_logprob, lengths),
    }


def _per_token(padded: Any, lengths: np.ndarray) -> pa.Array:
    """[N, T, ...] cut to each row's length, without a Python object per token."""
    values = np.asarray(padded)
    real = np.arange(values.shape[1])[None] < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _nested(values[real]))


def _nested(array: Any) -> pa.Array:
    """[M] as an array, [M, K] as M lists of K."""
    values = np.asarray(array)
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
