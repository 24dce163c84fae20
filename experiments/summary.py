"""From evaluations per arm and seed to summary.json: means, paired intervals, comparisons.

Intervals resample test queries and seeds jointly, the same draws for every arm and router.
Letters: K seeds, B resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cat.config import Config
from experiments import bits, evaluation
from experiments.compare import MAIN, Areas, Rankings, areas, compare, findings
from experiments.grid import CURVE_RESAMPLES, mean_curve, write_curve
from experiments.rundir import RunDirectory, provenance, read_json, write_json
from routers import metrics
from routers.bootstrap import Metric
from routers.curves import Curve, Ranked, oracle_score, rank
from routers.paired import Measured, measured


def write(config: Config, run: RunDirectory) -> None:
    """Write summary.json and curves/<arm>/<router>.csv from the evaluations."""
    rankings = _rankings(config, run)
    evaluations = {
        arm: [evaluation.load(run, arm, seed) for seed in config.seeds] for arm in config.arms
    }
    _write_curves(config, run, rankings)
    first = evaluations[config.arms[0]][0]
    measured_areas = areas(config, rankings)
    comparisons = compare(config, rankings, measured_areas)
    data = read_json(run.folder / "data.json")
    large = _large(config, run, rankings, first, data)
    write_json(
        run.folder / "summary.json",
        {
            "name": config.name,
            "n_fit": first["n_fit"],
            "n_test": first["n_test"],
            "seeds": list(config.seeds),
            "protocol": "sweep",
            "cost": COST,
            "quality_unit": config.data.metric.replace("_", " "),
            "provenance": provenance() | {"duration_s": round(sum(run.seconds().values()), 1)},
            "small": {"params": data["parameters"]["small"]},
            "large": large,
            "arms": {
                arm: _arm(config, run, arm, rankings[arm], evaluations[arm], measured_areas)
                for arm in config.arms
            },
            "comparisons": comparisons,
            "findings": findings(comparisons),
            "tasks": _tasks(config, run, evaluations, rankings),
            "macro": _macro(evaluations),
            "notes": notes(config, data, large),
        },
    )


def _write_curves(config: Config, run: RunDirectory, rankings: Rankings) -> None:
    """One CSV per arm and router; those of arms and routers no longer asked for are removed."""
    resamples, folder = min(CURVE_RESAMPLES, config.evaluation.bootstrap), run.folder / "curves"
    written = set()
    for arm, routers in rankings.items():
        for router, ranked in routers.items():
            path = folder / arm / f"{router.replace(':', '-')}.csv"
            write_curve(path, ranked, resamples, config.evaluation.seed)
            written.add(path)
    for path in set(folder.rglob("*.csv")) - written:
        path.unlink()


def _rankings(config: Config, run: RunDirectory) -> Rankings:
    """Rankings of the test queries by arm, router and seed, with the oracle and random lines."""
    made: Rankings = {}
    for arm in config.arms:
        seeds = [evaluation.load_ranked(config, run, arm, seed) for seed in config.seeds]
        made[arm] = {router: [seed[router] for seed in seeds] for router in seeds[0]}
        pairs = [evaluation.load_pair(config, run, arm, seed, "test")[1] for seed in config.seeds]
        made[arm]["oracle"] = [rank(oracle_score(o), o) for o in pairs]
        made[arm]["random"] = [rank(np.zeros(len(o)), o) for o in pairs]
    return made


def spread(
    ranked: Sequence[Ranked], measure: Mapping[str, Metric], resamples: int, seed: int
) -> dict[str, dict[str, Any] | None]:
    """Mean over seeds and 95 % interval over queries and seeds, per metric; None if undefined."""
    return {
        name: described(measured([ranked], metric, resamples=resamples, seed=seed)[0])
        for name, metric in measure.items()
    }


def described(found: Measured) -> dict[str, Any] | None:
    """Mean over seeds, 95 % interval and the seeds' own values; None where one has no value."""
    if np.isnan(found.per_seed).any():
        return None
    low, high = found.interval
    ci = None if low is None else [low, high]
    return {"mean": found.value, "ci": ci, "per_seed": found.per_seed.tolist()}


def _small_quality(curve: Curve) -> float:
    return float(curve.quality[0])


def _large_quality(curve: Curve) -> float:
    return float(curve.quality[-1])


def _saving(level: float) -> Metric:
    return lambda curve: metrics.flops_saving(curve, level)


def _large(
    config: Config,
    run: RunDirectory,
    rankings: Rankings,
    first: dict[str, Any],
    data: dict[str, Any],
) -> dict[str, Any]:
    """The large model alone."""
    ranked = rankings[config.arms[0]]["random"][:1]
    options = config.evaluation
    quality = spread(ranked, {"quality": _large_quality}, options.bootstrap, options.seed)
    params = data["parameters"]["large"]
    about = {"flops": first["flops"]["large"], "params": params}
    about |= bits.of_test(config, run, ["large"])
    return quality | about | {"hit_rate": hit_rates(config, run)}


def hit_rates(config: Config, run: RunDirectory) -> dict[str, float] | None:
    """The large model's teacher-forced hits per response token, on train rows and on validation.

    CAT's mask is made of its hits on rows it was trained on: where it has memorised them, the
    mask keeps everything and CAT is plain cross-entropy. None without stored teacher signals.
    """
    path = run.folder / "teacher" / "hit_rate.json"
    pair = evaluation.load_pair(config, run, config.arms[0], config.seeds[0], "validation")
    forced = pair[1].forced_hit_large
    if not path.exists() or forced is None:
        return None
    return {"train": read_json(path)["train"], "validation": float(np.mean(forced.values))}


def _arm(
    config: Config,
    run: RunDirectory,
    arm: str,
    routers: dict[str, list[Ranked]],
    evaluations: list[dict[str, Any]],
    measured_areas: Areas,
) -> dict[str, Any]:
    """Everything reported of one arm."""
    options = config.evaluation
    small = {"small_quality": _small_quality}
    return {
        **spread(routers["random"], small, options.bootstrap, options.seed),
        "small_flops": float(np.mean([e["flops"]["small"] for e in evaluations])),
        "keep_rate": _keep_rate(config, run, arm),
        **bits.of_test(config, run, [f"{arm}-seed{seed}" for seed in config.seeds]),
        "routers": {
            name: {"audc": described(measured_areas[arm, name])}
            | _router(config, ranked, [e["routers"][name] for e in evaluations])
            for name, ranked in routers.items()
            if name not in ("oracle", "random") or name in evaluations[0]["routers"]
        },
    }


def _router(config: Config, ranked: list[Ranked], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of one router's numbers, with intervals where they are claims."""
    options = config.evaluation
    levels = {str(level): _saving(level) for level in (0.5, 0.9, 1.0)}
    savings = spread(ranked, levels, min(CURVE_RESAMPLES, options.bootstrap), options.seed)
    plain = ("audc_random", "audc_oracle", "audc_normalised", "aucfc", "auroc_deferral")
    return {
        **{key: _mean([e[key] for e in entries]) for key in (*plain, "spearman_length")},
        "flops_saving_at_quality": savings,
        "transfer": _transfer(entries),
    }


def _transfer(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operating points chosen on validation, as reached on test; mean over seeds."""
    points = [e["transfer_at"] for e in entries]
    if any(p is None for p in points):
        return []
    keys = ("target_rate", "threshold", "deferral_rate", "quality", "flops")
    return [{key: _mean([p[rate][key] for p in points]) for key in keys} for rate in points[0]]


def _mean(values: list[float | None]) -> float | None:
    """Mean, or None where any seed has no value."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _keep_rate(config: Config, run: RunDirectory, arm: str) -> float | None:
    """Share of response tokens trained on over the last tenth of training; mean over seeds."""
    rates = []
    for seed in config.seeds:
        log = run.folder / "arms" / arm / f"seed{seed}" / "metrics.jsonl"
        if not log.exists():
            return None
        lines = log.read_text().splitlines()
        last = [json.loads(line)["keep_rate"] for line in lines[-max(1, len(lines) // 10) :]]
        rates.append(float(np.mean(last)))
    return _mean(list(rates))


def _tasks(
    config: Config,
    run: RunDirectory,
    evaluations: dict[str, list[dict[str, Any]]],
    rankings: Rankings,
) -> dict[str, Any]:
    """Per task: qualities, areas by arm and router, and the main router's curve."""
    arm0 = config.arms[0]
    task_N = evaluation.load_pair(config, run, arm0, config.seeds[0], "test")[0].task
    answers = {}
    for task in sorted(set(task_N.tolist())):
        per_arm = {arm: [e["tasks"][task] for e in seeds] for arm, seeds in evaluations.items()}
        rows = (task_N == task).astype(np.int64)
        answers[task] = {
            "n": per_arm[arm0][0]["n_test"],
            "large_quality": per_arm[arm0][0]["quality"]["large"],
            "small_quality": {
                arm: _mean([s["quality"]["small"] for s in seeds]) for arm, seeds in per_arm.items()
            },
            "routers": {
                arm: {
                    router: {"audc": _mean([s["routers"][router]["audc"] for s in seeds])}
                    for router in seeds[0]["routers"]
                }
                for arm, seeds in per_arm.items()
            },
            "curves": {
                arm: {MAIN: mean_curve([r.curve(rows) for r in routers[MAIN]])}
                for arm, routers in rankings.items()
                if MAIN in routers
            },
        }
    return answers


def _macro(evaluations: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Plain mean over tasks of each router's area."""
    return {
        arm: {
            router: {"audc": _mean([s["macro"][router]["audc"] for s in seeds])}
            for router in seeds[0]["macro"]
        }
        for arm, seeds in evaluations.items()
    }


COST = "exact forward matmul FLOPs; a response-stage cascade always pays the small model"

MEMORISED = 0.02
"""Hit rate on train minus that on validation from which CAT's mask is no longer to be trusted."""


def notes(config: Config, data: dict[str, Any], large: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    lines = [
        "The sweep ranks test queries and draws the whole curve: it compares rankings, and no "
        "threshold in it was chosen without seeing test. The transfer points were: their "
        "thresholds come from validation.",
        "Cost is forward matmul FLOPs; memory traffic, latency and training are not in it.",
        _parameter_rule(data["parameters"]),
    ]
    if len(config.seeds) < 5:
        lines.append(
            f"{len(config.seeds)} seed(s): intervals reflect the test queries more than training; "
            "five or more seeds are needed for a claim."
        )
    if config.data.task == "generated" and config.data.mix == "full":
        lines.append(
            "The full mix holds families neither model can learn, the friendliest regime for CAT; "
            "read it beside the mix without them (--data.mix feasible)."
        )
    rates = large["hit_rate"]
    if rates and rates["train"] - rates["validation"] > MEMORISED:
        lines.append(
            f"The large model hits {rates['train']:.1%} of its own training tokens and "
            f"{rates['validation']:.1%} of validation's: it has memorised, so CAT's mask keeps "
            "tokens it would not keep on new text, and CAT is closer to plain cross-entropy."
        )
    return lines + data["notes"]


def _parameter_rule(parameters: dict[str, int]) -> str:
    """The 2N rule beside the exact count: the choice of formula moves every saving."""
    ratio = parameters["small"] / parameters["large"]
    return (
        f"By the rule of 2 FLOPs per parameter and token the small model would cost {ratio:.1%} "
        "of the large one per token; the figures here use the exact count."
    )
