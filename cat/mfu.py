"""Model FLOPs utilisation: the share of a device's published peak that training keeps busy.

Letters: S steps, B rows, T tokens a row, K segments a row, V vocabulary.
"""

from __future__ import annotations

import re
from collections import Counter

import jax
import numpy as np

from cat.flops import keys_seen, layer_parameters
from cat.models.config import ModelConfig
from cat.types import Batch

PEAKS: tuple[tuple[str, float], ...] = (
    ("NVIDIA A100", 312e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA H200 NVL", 835e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA B200", 2250e12),
    ("NVIDIA L4", 121e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
)
"""Dense bfloat16 FLOP/s by the first words of JAX's ``device_kind``; the first match counts.

Source: NVIDIA data sheets of A100, H100, H200, L4 and HGX B200 (figures with sparsity halved);
Google Cloud TPU system architecture pages of v4, v5e, v5p and v6e.
"""


def peak_flops(kind: str) -> float | None:
    """Published dense bfloat16 FLOP/s of a device; None for one that is not in ``PEAKS``.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA L40S"), peak_flops("cpu")
    (989000000000000.0, None, None)
    """
    found = [peak for name, peak in PEAKS if re.match(re.escape(name) + r"(?![\w.])", kind)]
    return found[0] if found else None


def forward_flops(config: ModelConfig, batch: Batch) -> float:
    """Exact forward FLOPs of rows [..., T], packed or not: pads are free.

    F = sum_layers [ 2 layer_parameters sum(L) + 4 h k sum(keys_seen(L, w)) ] + 2 d V N, for
    segments of L tokens and N response targets; a row of one segment costs what
    ``cat.flops.forward_flops`` charges. Logits elsewhere are not counted, whether made or not.
    """
    segment_RT = np.asarray(batch.segments).reshape(-1, batch.segments.shape[-1])
    rows, most = len(segment_RT), int(segment_RT.max(initial=0)) + 1
    place_RT = segment_RT + most * np.arange(rows)[:, None]
    length_RK = np.bincount(place_RT.ravel(), minlength=rows * most).reshape(rows, most)[:, 1:]
    layers = Counter(config.window(layer) for layer in range(config.layers))
    keys = sum(n * keys_seen(length_RK, window).sum() for window, n in layers.items())
    total = 2.0 * config.layers * layer_parameters(config) * length_RK.sum()
    total += 4.0 * config.heads * config.head_dim * keys
    total += 2.0 * config.width * config.vocab_size * np.count_nonzero(batch.mask)
    return float(total)


def training_flops(
    small: ModelConfig, batch: Batch, *, large: ModelConfig | None = None, adapters: bool = False
) -> float:
    """FLOPs of training on a batch: 3 x forward, and one forward of a live large model.

    The backward pass costs two forward passes: gradients of activations and of weights. With
    ``adapters`` the frozen weights need none, which leaves 2 x forward. What is computed again
    to save memory is not counted. With several processes, ``batch`` is this one's share.

    Source: 3 x as in the 6ND rule (Kaplan et al., 2001.08361); MFU as in PaLM (2204.02311,
    appendix B), which counts the same way. Adapters and the live model: our choice.
    """
    once = forward_flops(small, batch) * (2 if adapters else 3)
    live = 0.0 if large is None else forward_flops(large, batch)
    return (once + live) * jax.process_count()


def utilisation(flops: float, seconds: float) -> float | None:
    """FLOPs per second over the peak of the mesh's devices; None where that is not published."""
    devices = jax.sharding.get_mesh().devices.flat
    peak = peak_flops(devices[0].device_kind)
    return None if peak is None else flops / seconds / (peak * len(devices))
