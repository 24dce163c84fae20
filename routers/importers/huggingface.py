"""Hugging Face generate() outputs saved as safetensors by a short snippet; add --quality

``docs/importing.md`` has the snippet. A file holds the tensors of one batch and, as metadata,
the query ids, the model's name and its end-of-sequence token ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError, safe_open

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.options import Options
from routers.importers.sources import check_file, text_files
from routers.records import Records

TENSORS = ("tokens", "prompt_tokens", "token_logprob", "token_entropy", "topk_logprob")


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of generated batches, with every token column.

    B sequences, T generated positions, K largest: ``tokens`` [B, T] integers,
    ``prompt_tokens`` [B], ``token_logprob`` [B, T], ``token_entropy`` [B, T] and
    ``topk_logprob`` [B, T, K] in nats. A response ends with its first end-of-sequence token,
    which counts; the padding after it does not.

    Raises:
        InputError: a file that is no safetensors, a tensor that is missing or of another
            shape, log-probabilities that do not fit together, no ids.
    """
    options.refuse("huggingface", "columns", "metric")
    files = text_files(sources, "*.safetensors")
    columns: dict[str, list[Any]] = {}
    for path in files:
        for name, values in _columns(path).items():
            columns.setdefault(name, []).extend(values)
    return complete(columns, "huggingface", files, options)


def lengths(tokens_BT: Int[np.ndarray, "B T"], ends: Sequence[int]) -> Int[np.ndarray, " B"]:
    """Tokens of each response: up to and with the first end token, or all T without one.

    >>> lengths(np.array([[5, 2, 2], [5, 6, 7], [2, 0, 0]]), [2]).tolist()
    [2, 3, 1]
    """
    end_BT = np.isin(tokens_BT, np.asarray(ends, dtype=np.int64))
    first_B = np.argmax(end_BT, axis=1) + 1
    return np.where(end_BT.any(axis=1), first_B, tokens_BT.shape[1])


def _columns(path: Path) -> dict[str, list[Any]]:
    header, arrays = _load(path)
    ids = _listed(header, "query_id", path)
    ends = _listed(header, "eos_token_id", path)
    _check_shapes(arrays, len(ids), path)
    if not all(isinstance(end, int) for end in ends):
        raise InputError(f"{path.name}: metadata eos_token_id is not integers; save json.dumps(id)")
    if not all(isinstance(query, str | int) for query in ids):
        raise InputError(f"{path.name}: metadata query_id is not texts; save json.dumps(ids)")
    length_B = lengths(arrays["tokens"], ends)
    _check_values(arrays, length_B, path)
    columns: dict[str, list[Any]] = {
        "query_id": [str(query) for query in ids],
        "model": [header.get("model")] * len(ids),
        "prompt_tokens": arrays["prompt_tokens"].tolist(),
        "response_tokens": length_B.tolist(),
    }
    for name in TENSORS[2:]:
        pairs = zip(arrays[name], length_B, strict=True)
        columns[name] = [row[:length].tolist() for row, length in pairs]
    return columns


def _load(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            known = set(file.keys())
            missing = [name for name in TENSORS if name not in known]
            if missing:
                raise InputError(
                    f"{path.name}: no tensor '{missing[0]}'; save it with the snippet of "
                    "docs/importing.md"
                )
            return file.metadata() or {}, {name: file.get_tensor(name) for name in TENSORS}
    except SafetensorError as error:
        reason = str(error).partition("\n")[0][:160]
        raise InputError(
            f"{path.name}: not a whole safetensors file ({reason}); save it again"
        ) from None
    except (TypeError, AttributeError, KeyError):  # a type NumPy lacks, such as bfloat16
        raise InputError(
            f"{path.name}: a tensor NumPy cannot read; save .float() tensors"
        ) from None


def _listed(header: dict[str, str], name: str, path: Path) -> list[Any]:
    try:
        value = json.loads(header[name])
    except (KeyError, ValueError, RecursionError):
        raise InputError(
            f"{path.name}: metadata '{name}' is missing or not JSON; save json.dumps(...) of it"
        ) from None
    return value if isinstance(value, list) else [value]


def _check_shapes(arrays: dict[str, np.ndarray], count: int, path: Path) -> None:
    shape = arrays["tokens"].shape
    wanted = {
        "tokens": 2,
        "prompt_tokens": 1,
        "token_logprob": 2,
        "token_entropy": 2,
        "topk_logprob": 3,
    }
    for name, rank in wanted.items():
        array = arrays[name]
        whole = name in ("tokens", "prompt_tokens")
        if array.ndim != rank or array.shape[:2] != shape[: min(rank, 2)] or shape[0] != count:
            raise InputError(
                f"{path.name}: '{name}' is {list(array.shape)} beside {count} query ids and "
                f"tokens {list(shape)}; save the tensors of one batch (num_beams=1)"
            )
        if np.issubdtype(array.dtype, np.integer) != whole:
            raise InputError(f"{path.name}: '{name}' is {array.dtype}; save it as in the snippet")


def _check_values(
    arrays: dict[str, np.ndarray], length_B: Int[np.ndarray, " B"], path: Path
) -> None:
    """Raw logits give finite log-probabilities, in order, none above the largest."""
    counted_BT = np.arange(arrays["tokens"].shape[1]) < length_B[:, None]
    own_M, entropy_M, topk_MK = (arrays[n][counted_BT].astype(np.float64) for n in TENSORS[2:])
    for name, values in zip(TENSORS[2:], (own_M, entropy_M, topk_MK), strict=True):
        if not np.isfinite(values).all():
            raise InputError(
                f"{path.name}: '{name}' holds infinities or NaN; take logits "
                "(output_logits=True), not scores, which top-k and top-p have cut"
            )
    if topk_MK.shape[1] == 0:
        raise InputError(f"{path.name}: 'topk_logprob' holds no values; save topk(K), K >= 2")
    if (np.diff(topk_MK, axis=1) > 1e-6).any():
        raise InputError(f"{path.name}: 'topk_logprob' does not descend; save topk(K).values")
    if (own_M > topk_MK[:, 0] + 1e-3).any():
        raise InputError(
            f"{path.name}: a token is likelier than the likeliest of 'topk_logprob'; the two are "
            "of different positions or batches"
        )
