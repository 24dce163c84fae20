"""Small valid logs of every format, written the way their programs write them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_jsonl(path: Path, lines: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chat(query: str, values: list[float], *, model: str = "small", k: int = 3, extra: int = 0):
    """A line of the batch API: tokens with these log-probabilities and k alternatives each."""
    content = [
        {
            "token": f"t{i}",
            "logprob": value,
            "bytes": None,
            "top_logprobs": [
                {"token": f"o{j}", "logprob": value - j, "bytes": None} for j in range(k)
            ],
        }
        for i, value in enumerate(values)
    ]
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "an answer"},
                "logprobs": {"content": content, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": len(values) + extra,
            "total_tokens": 7 + len(values) + extra,
        },
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "b1", "custom_id": query, "response": response, "error": None}


def text(query: str, values: list[float], top: list[dict], *, model: str = "small"):
    """A line with request and response of the completions API."""
    logprobs = {
        "tokens": [f"t{i}" for i in range(len(values))],
        "token_logprobs": values,
        "top_logprobs": top,
        "text_offset": list(range(len(values))),
    }
    return {
        "name": query,
        "request": {"prompt": "2 + 2 =", "model": model},
        "response": {
            "object": "text_completion",
            "choices": [{"text": " 4", "logprobs": logprobs}],
            "usage": {"prompt_tokens": 4, "completion_tokens": len(values)},
        },
    }


def harness_choice(doc_id: int, logliks: list[float], correct: bool, *, as_text: bool = True):
    """A multiple-choice sample of lm-evaluation-harness (newer versions write text)."""
    pairs = [[str(v), "False"] if as_text else [v, False] for v in logliks]
    arguments = {
        f"gen_args_{i}": {"arg_0": f"Question {doc_id}", "arg_1": f" option {i}"}
        for i in range(len(logliks))
    }
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Question {doc_id}"},
        "target": "0",
        "arguments": arguments,
        "resps": [[pair] for pair in pairs],
        "filtered_resps": pairs,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"hash{doc_id}",
        "prompt_hash": "p",
        "target_hash": "t",
        "acc": float(correct),
        "acc_norm": float(not correct),
    }


def harness_generation(doc_id: int, filter_name: str, correct: bool):
    """A generation sample, one line per answer filter."""
    return {
        "doc_id": doc_id,
        "target": "5",
        "arguments": {"gen_args_0": {"arg_0": "2 + 3", "arg_1": {"until": ["\n"]}}},
        "resps": [["it is 5"]],
        "filtered_resps": ["5"],
        "filter": filter_name,
        "metrics": ["exact_match"],
        "doc_hash": f"hash{doc_id}",
        "exact_match": float(correct),
    }


def harness_folder(root: Path, model: str, task: str, lines: list, time: str = "2026-01-02T03-04"):
    folder = root / model.replace("/", "__")
    path = write_jsonl(folder / f"samples_{task}_{time}.jsonl", lines)
    results = {"results": {}, "config": {"model": "hf"}, "model_name": model}
    (folder / f"results_{time}.json").write_text(json.dumps(results))
    return path


END = 9


def batch(tokens: np.ndarray, *, k: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors as the snippet saves them, from random logits over 12 words; [B, T] tokens."""
    logits = np.random.default_rng(seed).normal(size=(*tokens.shape, 12))
    logprob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return {
        "tokens": tokens.astype(np.int64),
        "prompt_tokens": np.arange(3, 3 + len(tokens)),
        "token_logprob": np.take_along_axis(logprob, tokens[..., None], -1)[..., 0].astype("f4"),
        "token_entropy": -(np.exp(logprob) * logprob).sum(-1).astype("f4"),
        "topk_logprob": np.ascontiguousarray(-np.sort(-logprob, axis=-1)[..., :k]).astype("f4"),
    }


def save_batch(path: Path, arrays: dict, ids: list, model: str = "small", **header: str) -> Path:
    metadata = {"query_id": json.dumps(ids), "eos_token_id": json.dumps(END), "model": model}
    save_file(arrays, path, metadata=metadata | header)
    return path


def grades(path: Path, rows: list[tuple], header: str = "query_id,quality") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path
