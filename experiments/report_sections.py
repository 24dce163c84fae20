"""The report's sections as HTML. Every string from a run passes through ``esc``."""

from __future__ import annotations

import json
from html import escape as esc
from typing import Any

from experiments import report_results as results
from experiments import report_style as style
from experiments.report_data import REFERENCES, Run, choose
from experiments.report_finding import finding, rival
from experiments.report_html import missing, terms
from experiments.report_text import caption, fixed, plural, short

SHOWN_LINES = 6


def body(run: Run) -> str:
    """Everything between <main> and </main>, in reading order."""
    parts = (
        head(run),
        curves(run),
        operate(run),
        results.routers(run),
        results.comparisons(run),
        results.transfer(run),
        notes(run),
        tasks(run),
        training(run),
        configuration(run),
    )
    return "\n".join(parts)


def shown(run: Run) -> tuple[list[str], list[str]]:
    """Arms and routers switched on at first: the static figure's, if that stays readable."""
    if not any(set(curves) - set(REFERENCES) for curves in run.curves.values()):
        return run.arms, run.routers
    pairs = choose(run)
    arms, routers = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    return arms, routers if len(arms) * len(routers) <= SHOWN_LINES else routers[:1]


def head(run: Run) -> str:
    """The finding as the title, and the few numbers that size it."""
    facts = [_small_fact(run, arm) for arm in _head_arms(run)]
    large, small = run.summary["large"], run.summary.get("small") or {}
    size = f"{_span(large['quality'])}{short(large.get('params'))} parameters"
    facts.append(("large alone", fixed(large["quality"]["mean"]), size))
    point = run.points(run.baseline)
    if point is not None:
        ratio = point[0] / run.large_flops
        note = f"{short(small.get('params'))} parameters"
        facts.append(("small / large FLOPs", fixed(ratio), note))
    cells = "".join(
        f"<div><dt>{esc(name)}</dt><dd>{esc(value)}<small>{esc(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return f"""<header>
<p class="over">Cascade report · {esc(run.name)}</p>
<h1 id="finding">{esc(finding(run).text)}</h1>
{_rival(run)}
<p class="caption">{esc(caption(run, intervals=False))}</p>
<dl class="facts">{cells}</dl>
</header>"""


def curves(run: Run) -> str:
    """The quality-FLOPs picture with its toggles."""
    title = "<section><h2>What each FLOP buys</h2>"
    if not any(run.curves.values()):
        return title + missing("curves (curves/<arm>/<router>.csv)") + "</section>"
    arms_on, routers_on = shown(run)
    axes = (("fraction", "share of large"), ("absolute", "FLOPs"), ("rate", "deferral rate"))
    groups = (
        _buttons("Arms", "arms", [(a, a, a in arms_on, _swatch(run, arm=a)) for a in run.arms]),
        _buttons(
            "Routers",
            "routers",
            [(r, r, r in routers_on, _swatch(run, router=r)) for r in run.routers],
        ),
        _buttons("Horizontal axis", "axis", [(k, n, k == "fraction", "") for k, n in axes]),
    )
    label = esc(f"Quality against FLOPs. {finding(run).text} The tables below hold the numbers.")
    lines = f"Grey lines: random (dashed) and oracle (dotted), with the {run.baseline} small model."
    return f"""{title}
{terms("FLOPs", "arm", "router", "deferral rate", "random", "oracle")}
<div class="controls">{"".join(groups)}</div>
<div class="chart large" id="curves" role="img" aria-label="{label}"></div>
<p class="caption">{esc(caption(run))} {esc(lines)}</p>
</section>"""


def operate(run: Run) -> str:
    """The slider that reads out one operating point."""
    if not any(run.curves.values()):
        return ""
    seeds = run.summary.get("seeds") or []
    advice = (
        f"Thresholds are means over {plural(len(seeds), 'seed')}: calibrate the checkpoint you "
        "deploy on its own validation records."
        if len(seeds) > 1
        else "Read from the test sweep: calibrate on validation records before you deploy."
    )
    start = style.lead_arm(run)
    arms = "".join(_option(arm, arm == start) for arm in run.arms)
    routers = "".join(_option(router, False) for router in run.routers)
    outputs = (
        ("rate", "sent on"),
        ("threshold", "threshold"),
        ("quality", "quality"),
        ("flops", "FLOPs"),
    )
    cells = "".join(
        f'<div><dt>{name}</dt><dd><span id="out-{key}">–</span>'
        f'<small id="out-{key}-note"></small></dd></div>'
        for key, name in outputs
    )
    return f"""<section><h2>Choose an operating point</h2>
<div class="operate">
<label>arm <select id="operate-arm">{arms}</select></label>
<label>router <select id="operate-router">{routers}</select></label>
<label class="wide">deferral rate
<input type="range" id="operate-rate" min="0" max="100" step="1" value="30"></label>
</div>
<output for="operate-arm operate-router operate-rate" aria-live="polite">
<dl class="facts">{cells}</dl></output>
<p class="caption">A query is sent on when its score is at least the threshold. {esc(advice)}
The circle in the picture above is this point.</p>
</section>"""


def notes(run: Run) -> str:
    """What the reader should hold against the numbers."""
    lines = run.summary.get("notes") or []
    items = "".join(f"<li>{esc(line)}</li>" for line in lines)
    text = f'<ul class="notes">{items}</ul>' if items else missing("notes")
    return f"<section><h2>What to keep in mind</h2>{text}</section>"


def tasks(run: Run) -> str:
    """Small multiples on shared axes and a table, the largest effect first."""
    title = "<section><h2>Task by task</h2>"
    if not run.summary.get("tasks"):
        return title + missing("per-task results") + "</section>"
    panels = style.task_panels(run)
    figures = "".join(
        f'<figure><figcaption>{esc(p.title)}</figcaption><div class="chart small" '
        f'id="task-{i}" role="img" aria-label="{esc(p.title)}"></div></figure>'
        for i, p in enumerate(panels)
    )
    key = _arm_key(run, list(panels[0].curves)) if panels else ""
    drawn = f'{key}<div class="grid">{figures}</div>' if panels else missing("per-task curves")
    router = f"Router {panels[0].router}. " if panels else ""
    text = (
        f"{router}Shared axes: quality against FLOPs per query, in units of the large model's mean "
        "over all tasks. Ordered by effect: AUDC of the CAT arm minus the baseline's."
    )
    return f"""{title}<p class="caption">{esc(text)}</p>{drawn}
{terms("macro average")}{results.tasks(run)}</section>"""


def training(run: Run) -> str:
    """Keep rate and who hits the tokens, over training."""
    title = "<section><h2>What training kept</h2>"
    if not run.training:
        return title + missing("training logs (arms/<arm>/seed<k>/metrics.jsonl)") + "</section>"
    arms = list(run.training)
    label = "keep rate over training steps"
    shares = "".join(
        f"<figure><figcaption>{esc(arm)} <span>who hits the token</span></figcaption>"
        f'<div class="chart small" id="shares-{i}" role="img" '
        f'aria-label="{esc(arm)}: shares of tokens each model hits, over steps"></div></figure>'
        for i, arm in enumerate(arms)
    )
    cells = "".join(f"<li>{_dot(color)}{esc(n)}</li>" for n, color in style.CELL_COLORS.items())
    return f"""{title}{terms("keep rate")}
{_arm_key(run, arms)}
<div class="grid"><figure><figcaption>keep rate</figcaption>
<div class="chart small" id="kept" role="img" aria-label="{label}"></div></figure>{shares}</div>
<ul class="key">{cells}</ul></section>"""


def configuration(run: Run) -> str:
    """The configuration tree and where the numbers come from."""
    birth = run.summary.get("provenance") or {}
    rows = [("commit", birth.get("commit")), ("created", birth.get("created"))]
    rows += [(f"{name} version", v) for name, v in (birth.get("versions") or {}).items()]
    if birth.get("duration_s") is not None:
        rows.append(("duration", f"{birth['duration_s'] / 60:.1f} min"))
    lines = "\n".join(f"{name}: {value}" for name, value in rows if value)
    shown = json.dumps(run.config, indent=2, ensure_ascii=False)
    config = f'<pre tabindex="0">{esc(shown)}</pre>' if run.config else missing("config.json")
    origin = f'<pre tabindex="0">{esc(lines)}</pre>' if lines else missing("provenance")
    return f"""<section><h2>How it was made</h2>
<details><summary>Configuration</summary>{config}</details>
<details><summary>Provenance</summary>{origin}</details></section>"""


def _head_arms(run: Run) -> list[str]:
    return list(dict.fromkeys([run.baseline, style.lead_arm(run)]))


def _rival(run: Run) -> str:
    found = rival(run)
    if found is None:
        return ""
    return f'<p id="rival">Hardest rival router. {esc(found.text)}</p>'


def _small_fact(run: Run, arm: str) -> tuple[str, str, str]:
    entry = run.summary["arms"][arm]
    keep, quality = entry.get("keep_rate"), entry.get("small_quality") or {}
    note = "keep rate not recorded" if keep is None else f"keeps {100 * keep:.0f} % of tokens"
    return f"small alone, {arm}", fixed(quality.get("mean")), _span(quality) + note


def _span(entry: dict[str, Any]) -> str:
    """``[0.801, 0.823] · ``, or nothing when there is no interval."""
    bounds = entry.get("ci")
    return f"[{fixed(bounds[0])}, {fixed(bounds[1])}] · " if bounds else ""


def _buttons(legend: str, kind: str, options: list[tuple[str, str, bool, str]]) -> str:
    buttons = "".join(
        f'<button type="button" data-kind="{kind}" data-value="{esc(value)}" '
        f'aria-pressed="{str(on).lower()}">{icon}{esc(name)}</button>'
        for value, name, on, icon in options
    )
    return f'<fieldset><legend>{legend}</legend><div class="buttons">{buttons}</div></fieldset>'


def _swatch(run: Run, *, arm: str = "", router: str = "") -> str:
    color = f"var(--hue-{style.hue(run, arm)})" if arm else "currentColor"
    dash = " ".join(map(str, style.router_dash(router, run.routers))) if router else ""
    return (
        '<svg width="26" height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" '
        f'style="stroke: {color}" stroke-width="2.5" stroke-dasharray="{dash}"/></svg>'
    )


def _dot(color: str) -> str:
    return (
        '<svg width="12" height="12" aria-hidden="true">'
        f'<rect width="12" height="12" rx="2" fill="{color}"/></svg>'
    )


def _arm_key(run: Run, arms: list[str]) -> str:
    items = "".join(f"<li>{_swatch(run, arm=arm)}{esc(arm)}</li>" for arm in arms)
    return f'<ul class="key">{items}</ul>'


def _option(name: str, chosen: bool) -> str:
    return f'<option value="{esc(name)}"{" selected" if chosen else ""}>{esc(name)}</option>'
