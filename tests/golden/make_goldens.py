"""Write the golden files again, with transformers and torch on a CPU.

    python tests/golden/make_goldens.py [NAME ...]

Each is a pair: ``NAME.json`` (config.json as transformers saves it, tensor shapes, token rows,
greedy tokens) and ``NAME.npz`` (float32 logits). A file that comes out as it was shows no
difference in git.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import configs, weights

LENGTHS, NEW = (12, 9), 8
LEAST_GAP = 1e-3  # between the two best logits of every greedy step: rounding cannot swap them


def build(name: str, seed: int = 0) -> Any:
    """The model in transformers, in float32, with eager attention."""
    prefix, fields = configs.CONFIGS[name]
    config = getattr(transformers, f"{prefix}Config")(**fields)
    config.architectures = [f"{prefix.removesuffix('Text')}ForCausalLM"]
    config._attn_implementation = "eager"
    model = getattr(transformers, config.architectures[0])(config).float().eval()
    kept = {n: p for n, p in model.state_dict().items() if not _copy(n, config)}
    values = {n: torch.from_numpy(weights.tensor(n, list(p.shape), seed)) for n, p in kept.items()}
    model.load_state_dict(values, strict=False)
    model.tie_weights()
    return model


def _copy(name: str, config: Any) -> bool:
    return name == "lm_head.weight" and config.tie_word_embeddings


def texts(name: str, seed: int = 0) -> list[list[int]]:
    """Two token rows of unequal length, of a model's own."""
    rng = np.random.default_rng([seed, *name.encode()])
    return [rng.integers(1, configs.VOCABULARY, n).tolist() for n in LENGTHS]


def left_padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """One batch, pads before the shorter text."""
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": tokens, "attention_mask": mask}


@torch.no_grad()
def compute(model: Any, rows: list[list[int]]) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Logits of every text alone and of the padded batch, and the greedy continuations."""
    batch = left_padded(rows)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = {f"text{i}": model(torch.tensor([row])).logits[0] for i, row in enumerate(rows)}
    found["padded"] = model(**batch, position_ids=positions).logits
    found["padded"] *= batch["attention_mask"][:, :, None]  # at pads they mean nothing
    grown = model.generate(
        **batch, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
    )[:, batch["input_ids"].shape[1] :].tolist()
    for row, new in zip(rows, grown, strict=True):
        steps = model(torch.tensor([row + new])).logits[0, len(row) - 1 : -1]
        best = steps.topk(2).values
        assert steps.argmax(-1).tolist() == new, "generate does not follow the logits"
        assert (best[:, 0] - best[:, 1]).min() > LEAST_GAP, "a near tie; take another seed"
    return {key: value.float().numpy() for key, value in found.items()}, grown


def make(name: str) -> None:
    model = build(name)
    rows = texts(name)
    arrays, grown = compute(model, rows)
    shapes = {n: list(p.shape) for n, p in model.state_dict().items() if not _copy(n, model.config)}
    about = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
        "config": json.loads(model.config.to_json_string()),
        "tensors": shapes,
        "texts": rows,
        "greedy": grown,
    }
    (weights.HERE / f"{name}.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    np.savez_compressed(weights.HERE / f"{name}.npz", allow_pickle=False, **arrays)
    spread = np.abs(arrays["text0"]).max()
    print(f"{name}: {len(shapes)} tensors, |logits| <= {spread:.2f}, greedy {grown[0]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or configs.CONFIGS:
        make(name)
