"""The token-level rules once more, one position at a time, in plain Python from the equations.

``q`` and ``p`` are tempered, ``q1`` and ``p1`` at temperature 1; every function gives the list
pi. Exact laws of whole responses are products of these.
"""

import itertools
import math

import numpy as np


def softmax(logits, temperature):
    if temperature == 0:
        best = max(range(len(logits)), key=lambda v: (logits[v], -v))
        return [float(v == best) for v in range(len(logits))]
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def tv(q, p):
    return sum(abs(a - b) for a, b in zip(q, p, strict=True)) / 2


def keep_some(q, p, stays):
    out, kept = [], 0.0
    for v in range(len(q)):
        if stays(v):
            kept += q[v]
    for v in range(len(q)):
        out.append((q[v] if stays(v) else 0.0) + p[v] * (1.0 - kept))
    return out


def lossless(q, p, q1, p1, gate):
    return list(p)


def lossy(q, p, q1, p1, gate, alpha):
    """Not the closed form: the algorithm's law, drafted token by drafted token."""
    V = len(q)
    stay = [
        1.0 if q[v] == 0 else min(1.0, p[v] / max((1 - alpha) * q[v], 1e-300)) for v in range(V)
    ]
    rest = [max(0.0, p[v] - q[v]) for v in range(V)]
    rejected = sum(q[v] * (1 - stay[v]) for v in range(V))
    total = sum(rest)
    return [q[v] * stay[v] + (rejected * rest[v] / total if total else 0.0) for v in range(V)]


def chow(q, p, q1, p1, gate, alpha):
    return list(q) if max(q1) >= 1 - alpha else list(p)


def diff(q, p, q1, p1, gate, alpha):
    return list(q) if max(q1) >= max(p1) - alpha else list(p)


def opt(q, p, q1, p1, gate, alpha):
    return list(q) if max(q1) >= max(p1) - alpha * tv(q, p) else list(p)


def token_v1(q, p, q1, p1, gate, alpha):
    return keep_some(q, p, lambda v: q1[v] >= max(p1) - alpha)


def token_v2(q, p, q1, p1, gate, alpha):
    return keep_some(q, p, lambda v: p1[v] >= max(p1) - alpha)


def token_v3(q, p, q1, p1, gate, alpha):
    return keep_some(q, p, lambda v: p1[v] >= (1 - alpha) * max(p1))


def bild(q, p, q1, p1, gate, fallback, rollback):
    if max(q1) < fallback:
        return list(p)
    return keep_some(q, p, lambda v: math.exp(-rollback) <= p1[v])


def co_llm(q, p, q1, p1, gate, threshold):
    return list(p) if 1 / (1 + math.exp(-gate)) > threshold else list(q)


def citer(q, p, q1, p1, gate, threshold):
    return list(q) if 1 / (1 + math.exp(-gate)) >= threshold else list(p)


def target(name, small_logits, large_logits, temperature, thresholds, gate=None):
    """pi at one position, from both models' logits."""
    small, large = [float(z) for z in small_logits], [float(z) for z in large_logits]
    tempered = softmax(small, temperature), softmax(large, temperature)
    return globals()[name](*tempered, softmax(small, 1.0), softmax(large, 1.0), gate, *thresholds)


def every_response(V, N):
    """All V^N responses, [V^N, N]; row i is i in base V."""
    return np.array(list(itertools.product(range(V), repeat=N)), np.int32)
