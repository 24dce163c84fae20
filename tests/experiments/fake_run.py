"""Makes a run directory as a finished run leaves it, from simulated queries.

Every query has a difficulty; each arm's small model answers easy ones, the large one all but
the hardest, and each router scores the difficulty through its own noise. A CAT arm also knows
the hopeless ones and keeps them. Curves, areas and comparisons are computed from those draws,
so files agree with one another as a real run's do.
"""

import csv
import json
from pathlib import Path

import numpy as np

ARMS = {"xent": (0.0, 0.50), "cat_xent": (0.6, 0.53), "random_mask": (0.1, 0.48)}
"""How far hopeless queries are pushed down, and the difficulty the small model manages."""

ROUTERS = {"chow_sum": 1.5, "chow_average": 1.0, "post_hoc:learner=mlp": 0.8}
TASKS = ("copy", "reverse", "add")
SMALL_FLOPS, LARGE_FLOPS = 1.2e6, 2.4e7
EQUAL_QUALITY = 0.72
RATES = np.linspace(0, 1, 101)


def make(folder: Path, name: str = "demo", queries: int = 900, steps: int = 60) -> Path:
    """Write the whole directory; returns it."""
    rng = np.random.default_rng(0)
    task_N = np.array(TASKS)[np.arange(queries) % len(TASKS)]
    hard_N = rng.uniform(size=queries) + 0.1 * (np.arange(queries) % len(TASKS))
    large_N = (hard_N < 0.95).astype(float)
    summary = {**_head(name, queries), "arms": {}, "tasks": {}, "macro": {}, "notes": _notes()}
    summary["large"] = {"quality": _around(large_N.mean()), "flops": LARGE_FLOPS, "params": 213_000}
    for task in TASKS:
        here = task_N == task
        summary["tasks"][task] = {
            "n": int(here.sum()),
            "large_quality": float(large_N[here].mean()),
            **{part: {} for part in ("small_quality", "routers", "curves")},
        }
    for arm, (knows, able) in ARMS.items():
        small_N = (hard_N < able).astype(float)
        seen_N = hard_N - knows * (1 - large_N)
        scores = {r: seen_N + k * rng.normal(0, 0.2, queries) for r, k in ROUTERS.items()}
        scores["oracle"] = large_N - small_N
        scores["random"] = np.zeros(queries)
        summary["arms"][arm] = _arm(folder, arm, small_N, large_N, scores)
        for task in TASKS:
            here = task_N == task
            _task(summary["tasks"][task], arm, small_N[here], large_N[here], scores, here)
        areas = {r: {"audc": _area(small_N, large_N, scores[r])} for r in ROUTERS}
        summary["macro"][arm] = areas
        _metrics(folder, arm, steps, rng)
    summary["comparisons"] = _comparisons(folder, summary)
    write(folder, summary)
    config = {"name": name, "arms": list(ARMS), "small": {"width": 16}, "large": {"width": 64}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write(folder: Path, summary: dict) -> None:
    """Put a (changed) summary in place."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))


def curve(small_N: np.ndarray, large_N: np.ndarray, score_N: np.ndarray) -> dict[str, np.ndarray]:
    """Deferral curve on the grid; ties are joined by straight lines."""
    levels, group_N, count = np.unique(-score_N, return_inverse=True, return_counts=True)
    levels = -levels  # descending
    gain = np.bincount(group_N, weights=large_N - small_N)
    rate = np.append(0.0, np.cumsum(count)) / len(score_N)
    quality = small_N.mean() + np.append(0.0, np.cumsum(gain)) / len(score_N)
    quality_K = np.interp(RATES, rate, quality)
    return {
        "deferral_rate": RATES,
        "quality": quality_K,
        "quality_lo": quality_K - 0.02,
        "quality_hi": quality_K + 0.02,
        "flops": SMALL_FLOPS + RATES * LARGE_FLOPS,
        "threshold": np.interp(RATES, rate, np.append(levels[0], levels)),
    }


def _area(small_N: np.ndarray, large_N: np.ndarray, score_N: np.ndarray) -> float:
    return float(np.trapezoid(curve(small_N, large_N, score_N)["quality"], RATES))


def _around(mean: float, half: float = 0.02) -> dict:
    return {"mean": float(mean), "ci": [float(mean - half), float(mean + half)]}


def _head(name: str, queries: int) -> dict:
    return {
        "name": name,
        "n_fit": 500,
        "n_test": queries,
        "seeds": [0, 1],
        "protocol": "sweep",
        "cost": "exact matmul FLOPs; small always paid",
        "quality_unit": "exact match",
        "provenance": {
            "commit": "0123456789ab",
            "versions": {"jax": "0.10.2"},
            "created": "2026-01-02T03:04:05Z",
            "duration_s": 321.0,
        },
        "small": {"params": 9_400},
    }


def _notes() -> list[str]:
    return ["Much of the gain comes from queries that neither model can answer."]


def _arm(folder: Path, arm: str, small_N: np.ndarray, large_N: np.ndarray, scores: dict) -> dict:
    curves = {router: curve(small_N, large_N, score_N) for router, score_N in scores.items()}
    (folder / "curves" / arm).mkdir(parents=True, exist_ok=True)
    for router, columns in curves.items():
        with (folder / "curves" / arm / f"{router.replace(':', '-')}.csv").open(
            "w", newline=""
        ) as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
    area = {router: float(np.trapezoid(c["quality"], RATES)) for router, c in curves.items()}
    routers = {r: _router(curves[r], area[r], area["random"], area["oracle"]) for r in ROUTERS}
    return {
        "small_quality": _around(small_N.mean()),
        "small_flops": SMALL_FLOPS,
        "keep_rate": 1.0 if arm == "xent" else 0.81,
        "routers": routers,
    }


def _router(points: dict, area: float, random: float, oracle: float) -> dict:
    low, high = points["quality"][0], points["quality"][-1]
    saving = {}
    for part in (0.5, 0.9, 1.0):
        k = np.flatnonzero(points["quality"] >= low + part * (high - low) - 1e-12)[0]
        saving[str(part)] = _around(1 - points["flops"][k] / LARGE_FLOPS)
    saving["1.0"] = saving["1.0"] if saving["1.0"]["mean"] > 0 else None
    rows = [int(100 * rate) for rate in (0.2, 0.5, 0.8)]
    names = ("threshold", "deferral_rate", "quality", "flops")
    return {
        "audc": {**_around(area, 0.01), "per_seed": [area - 0.002, area + 0.002]},
        "audc_random": random,
        "audc_oracle": oracle,
        "audc_normalised": (area - random) / (oracle - random),
        "aucfc": area,
        "auroc_deferral": 0.8,
        "spearman_length": 0.1,
        "flops_saving_at_quality": saving,
        "transfer": [
            {"target_rate": k / 100, **{n: float(points[n][k + 1]) for n in names}} for k in rows
        ],
    }


def _task(entry: dict, arm: str, small_N, large_N, scores: dict, here: np.ndarray) -> None:
    entry["small_quality"][arm] = float(small_N.mean())
    curves = {r: curve(small_N, large_N, scores[r][here]) for r in ROUTERS}
    areas = {r: {"audc": float(np.trapezoid(c["quality"], RATES))} for r, c in curves.items()}
    entry["routers"][arm] = areas
    entry["curves"][arm] = {
        r: {n: c[n].tolist() for n in ("deferral_rate", "quality", "flops")}
        for r, c in curves.items()
    }


def _metrics(folder: Path, arm: str, steps: int, rng: np.random.Generator) -> None:
    for seed in (0, 1):
        path = folder / "arms" / arm / f"seed{seed}" / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for step in range(1, steps + 1):
            grown = 0.2 + 0.4 * step / steps
            cells = rng.multinomial(640, [grown, 0.05, 0.9 - grown, 0.05])
            kept = 1.0 if arm == "xent" else float(cells[:3].sum() / 640)
            row = {"step": step, "loss": 2.0 / step, "keep_rate": kept, "grad_norm": 1.0}
            row |= dict(zip(("n11", "n10", "n01", "n00"), map(int, cells), strict=True))
            lines.append(json.dumps(row | {"learning_rate": 1e-3, "tokens_per_s": 1e5}))
        path.write_text("\n".join(lines) + "\n")


def _comparisons(folder: Path, summary: dict) -> list[dict]:
    """Differences of the curves just written; the intervals' width is made up."""
    rows = []
    for against in ("xent", "random_mask"):
        common = {"arm": "cat_xent", "against": against, "router": "chow_average"}
        found = [summary["arms"][arm]["routers"]["chow_average"] for arm in ("cat_xent", against)]
        gain = found[0]["audc"]["mean"] - found[1]["audc"]["mean"]
        rows.append({**common, "metric": "audc", "difference": gain, "ci": _around(gain)["ci"]})
        flops = [
            _flops_at(folder / "curves" / a / "chow_average.csv") for a in ("cat_xent", against)
        ]
        change = flops[0] / flops[1] - 1
        metric = {"metric": "flops_at_equal_quality", "at_quality": EQUAL_QUALITY}
        rows.append({**common, **metric, "difference": change, "ci": _around(change, 0.11)["ci"]})
    return rows


def _flops_at(path: Path) -> float:
    points = np.genfromtxt(path, delimiter=",", names=True)
    return float(points["flops"][np.flatnonzero(points["quality"] >= EQUAL_QUALITY)[0]])
