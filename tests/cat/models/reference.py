"""The decoder again, in NumPy float64, one position at a time: what the tests compare with."""

import numpy as np
from flax import nnx

from cat.models.config import ModelConfig


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


def rms_norm(x, scale, c):
    return x / np.sqrt(np.mean(x**2) + c.norm_eps) * (scale + 1 if c.norm_plus_one else scale)


def turn(x, position, base):
    """Rotate every channel pair of one head as a complex number."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        z = complex(x[i], x[i + half]) * np.exp(1j * position * base ** (-2 * i / len(x)))
        out[i], out[i + half] = z.real, z.imag
    return out


def bend(x, limit):
    return limit * np.tanh(x / limit) if limit else x


def activate(x, c):
    if c.activation == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def forward(model, tokens):
    """(hidden [T, D], logits [T, V]) of one sequence without padding."""
    w, c = weights(model), model.config
    keys = [[] for _ in range(c.layers)]
    values = [[] for _ in range(c.layers)]
    hidden = []
    for position, token in enumerate(tokens):
        x = w["embed"]["embedding"][token] * (np.sqrt(c.width) if c.scaled_embedding else 1)
        for i in range(c.layers):
            layer = w["layers"][str(i)]
            mixed = attention(layer, x, position, keys[i], values[i], c, i)
            x = x + after(layer, "attention_post_norm", mixed, c)
            h = before(layer, "ffn_norm", x, c)
            gate = activate(h @ layer["ffn"]["gate"]["kernel"], c)
            up = h @ layer["ffn"]["up"]["kernel"]
            x = x + after(layer, "ffn_post_norm", (gate * up) @ layer["ffn"]["down"]["kernel"], c)
        hidden.append(rms_norm(x, w["norm"]["scale"], c))
    hidden = np.array(hidden)
    table = w["embed"]["embedding"].T if c.tied_embeddings else w["head"]["kernel"]
    return hidden, bend(hidden @ table, c.logit_softcap)


def before(layer, name, x, c):
    return x if c.norms == "after" else rms_norm(x, layer[name]["scale"], c)


def after(layer, name, x, c):
    return x if c.norms == "before" else rms_norm(x, layer[name]["scale"], c)


def project(layer, name, h, c):
    """Heads of one token, [heads, C], with bias and norm where the model has them."""
    heads = np.einsum("d,dhc->hc", h, layer[name]["kernel"])
    if c.qkv_bias:
        heads = heads + layer[name]["bias"]
    if name == "value" or c.qk_norm == "none":
        return heads
    scale = layer[f"{name}_norm"]["scale"]
    if c.qk_norm == "projection":
        return rms_norm(heads.ravel(), scale, c).reshape(heads.shape)
    return np.array([rms_norm(head, scale, c) for head in heads])


def attention(layer, x, position, keys, values, c, i):
    """One query against the keys so far, head by head; appends its own key and value."""
    h = before(layer, "attention_norm", x, c)
    w = layer["attention"]
    window = c.windows[i] if c.windows else 0
    base = c.rope_local_base if window and c.rope_local_base else c.rope_base
    keys.append([turn(k, position, base) for k in project(w, "key", h, c)])
    values.append(project(w, "value", h, c))
    start = max(0, len(keys) - window) if window else 0
    queries = project(w, "query", h, c)
    out = np.zeros(c.width)
    for head in range(c.heads):
        g = head // (c.heads // c.kv_heads)
        q = turn(queries[head], position, base)
        scores = np.array([q @ k[g] for k in keys[start:]])
        scores = bend(scores * (c.attention_scale or c.head_dim**-0.5), c.attention_softcap)
        p = np.exp(scores - scores.max())
        p /= p.sum()
        mixed = sum(p_s * v[g] for p_s, v in zip(p, values[start:], strict=True))
        out += mixed @ w["out"]["kernel"][head]
    return out
