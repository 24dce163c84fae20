"""The decoder again, in NumPy float64, one position at a time: what the tests compare with."""

import numpy as np
from flax import nnx

from cat.config import ModelConfig


def tiny(**changes):
    sizes = dict(width=16, layers=2, heads=4, kv_heads=2, head_dim=6, ffn=24, vocab_size=13)
    return ModelConfig(**{**sizes, **changes})


def weights(model):
    """The parameters as nested dictionaries of float64 arrays."""
    state = nnx.to_pure_dict(nnx.state(model))

    def convert(node):
        if isinstance(node, dict):
            return {str(key): convert(value) for key, value in node.items()}
        return np.asarray(node, np.float64)

    return convert(state)


def rms_norm(x, scale, eps):
    return x / np.sqrt(np.mean(x**2) + eps) * scale


def turn(x, position, base):
    """Rotate every channel pair of one head as a complex number."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        z = complex(x[i], x[i + half]) * np.exp(1j * position * base ** (-2 * i / len(x)))
        out[i], out[i + half] = z.real, z.imag
    return out


def forward(model, tokens):
    """(hidden [T, D], logits [T, V]) of one sequence without padding."""
    w, c = weights(model), model.config
    keys = [[] for _ in range(c.layers)]
    values = [[] for _ in range(c.layers)]
    hidden = []
    for position, token in enumerate(tokens):
        x = w["embed"]["embedding"][token]
        for i in range(c.layers):
            layer = w["layers"][str(i)]
            x = x + attention(layer, x, position, keys[i], values[i], c)
            h = rms_norm(x, layer["ffn_norm"]["scale"], c.norm_eps)
            gate = h @ layer["ffn"]["gate"]["kernel"]
            up = h @ layer["ffn"]["up"]["kernel"]
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["ffn"]["down"]["kernel"]
        hidden.append(rms_norm(x, w["norm"]["scale"], c.norm_eps))
    hidden = np.array(hidden)
    table = w["embed"]["embedding"].T if c.tied_embeddings else w["head"]["kernel"]
    return hidden, hidden @ table


def attention(layer, x, position, keys, values, c):
    """One query against the keys so far, head by head; appends its own key and value."""
    h = rms_norm(x, layer["attention_norm"]["scale"], c.norm_eps)
    w = {name: layer["attention"][name]["kernel"] for name in ("query", "key", "value", "out")}
    keys.append([turn(h @ w["key"][:, g], position, c.rope_base) for g in range(c.kv_heads)])
    values.append([h @ w["value"][:, g] for g in range(c.kv_heads)])
    out = np.zeros(c.width)
    for head in range(c.heads):
        g = head // (c.heads // c.kv_heads)
        q = turn(h @ w["query"][:, head], position, c.rope_base)
        scores = np.array([q @ k[g] for k in keys]) / np.sqrt(c.head_dim)
        p = np.exp(scores - scores.max())
        p /= p.sum()
        out += sum(p_s * v[g] for p_s, v in zip(p, values, strict=True)) @ w["out"][head]
    return out
