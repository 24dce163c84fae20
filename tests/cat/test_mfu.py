"""MFU: FLOPs of training against the table of records, peaks only for devices that have one."""

import dataclasses

import jax
import numpy as np
import pytest

from cat import flops, mfu
from cat.mesh import make_mesh
from cat.models.config import ModelConfig
from cat.types import Batch

SMALL = ModelConfig(width=8, layers=3, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab_size=30)
WINDOWED = dataclasses.replace(SMALL, windows=(0, 3, 5))


def rows(lengths, prompts, width=12) -> Batch:
    """Rows of one segment: ``lengths`` tokens, of which the last predict a response."""
    time_T = np.arange(width)
    real = time_T < np.asarray(lengths)[:, None]
    mask = real & (time_T >= np.asarray(prompts)[:, None] - 1)
    columns = np.zeros(real.shape, np.int32)
    return Batch(columns, columns, mask.astype(np.float32), columns, real.astype(np.int32))


@pytest.mark.parametrize("config", [SMALL, WINDOWED])
def test_forward_flops_are_what_records_charge(config):
    lengths, prompts = np.array([7, 12, 3]), np.array([4, 12, 1])
    charged = flops.forward_flops(config, prompts, lengths - prompts + 1).sum()
    assert mfu.forward_flops(config, rows(lengths, prompts)) == charged


@pytest.mark.parametrize("config", [SMALL, WINDOWED])
def test_packed_rows_cost_what_they_cost_apart(config):
    apart = rows([5, 4, 2], [3, 2, 1])
    columns = [
        np.concatenate([column[i, :n] for i, n in enumerate((5, 4, 2))])[None]
        for column in apart[:5]
    ]
    packed = Batch(*columns)._replace(segments=np.repeat([[1, 2, 3]], [5, 4, 2], axis=1))
    padded = jax.tree.map(lambda column: np.pad(column, [(0, 1), (0, 9)]), packed)
    assert mfu.forward_flops(config, padded) == mfu.forward_flops(config, apart)


def test_training_is_three_forward_passes_and_one_of_a_live_large_model():
    batch, large = rows([7, 12], [4, 3]), dataclasses.replace(SMALL, width=16)
    once, behind = mfu.forward_flops(SMALL, batch), mfu.forward_flops(large, batch)
    assert mfu.training_flops(SMALL, batch) == 3 * once
    assert mfu.training_flops(SMALL, batch, adapters=True) == 2 * once
    assert mfu.training_flops(SMALL, batch, large=large) == 3 * once + behind
    steps = jax.tree.map(lambda column: np.stack([column, column]), batch)
    assert mfu.training_flops(SMALL, steps) == 2 * 3 * once


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_published_peaks(kind, peak):
    assert mfu.peak_flops(kind) == peak * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA A10", "NVIDIA B2000", "TPU v7", ""])
def test_no_peak_is_guessed(kind):
    assert mfu.peak_flops(kind) is None


def test_utilisation_is_of_all_devices(monkeypatch):
    with jax.set_mesh(make_mesh()):
        assert mfu.utilisation(1e12, 1.0) is None
        monkeypatch.setattr(mfu, "peak_flops", lambda kind: 1e12)
        assert mfu.utilisation(4e12, 2.0) == 2e12 / (8 * 1e12)
