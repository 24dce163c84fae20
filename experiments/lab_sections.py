"""The sections of the router laboratory's report as HTML. Every string passes through ``esc``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as esc

from experiments import lab_tables as tables
from experiments import lab_text as text
from experiments import report_style as style
from experiments.lab_data import RATES, Lab
from experiments.report_text import fixed

SHOWN_LINES = 6
PARTS = ("small model", "router", "large model")
STEPS = ("earned", "perfect ranking", "perfect small model", "neither model")


def body(lab: Lab) -> str:
    """Everything between <main> and </main>, in reading order."""
    parts = (
        head(lab),
        curves(lab),
        operate(lab),
        routers(lab),
        gap(lab),
        reliability(lab),
        tasks(lab),
        notes(lab),
    )
    return "\n".join(parts)


def shown(lab: Lab) -> list[str]:
    """Routers switched on at first: the largest areas, few enough to read."""
    return [router.name for router in (lab.deployable or lab.routers)[:SHOWN_LINES]]


def head(lab: Lab) -> str:
    """The finding as the title, and the few numbers that size it."""
    summary = lab.summary
    unit, quality, cost = summary["cost_unit"], summary["quality"], summary["flops"]
    fit = f"{summary['n_fit']:,} of '{lab.fit_split}' to fit" if lab.transfer else "no fit split"
    facts = [
        ("small alone", fixed(quality["small"]), f"{text.amount(cost['small'], unit)} per query"),
        ("large alone", fixed(quality["large"]), f"{text.amount(cost['large'], unit)} per query"),
        ("better of the two", fixed(quality["oracle"]), "chosen query by query"),
        ("test queries", f"{summary['n_test']:,}", fit),
    ]
    return f"""<header>
<p class="over">Cascade routers · {esc(summary["small"])} → {esc(summary["large"])}</p>
<h1 id="finding">{esc(text.finding(lab))}</h1>
<p id="lead">{esc(text.runner_up(lab))}</p>
<p id="within">{esc(text.within_tasks(lab))}</p>
<dl class="facts">{_cells(facts)}</dl>
</header>"""


def curves(lab: Lab) -> str:
    """Quality against cost, with its toggles."""
    on = shown(lab)
    buttons = "".join(
        _button("routers", r.name, r.name, r.name in on, swatch(i))
        for i, r in enumerate(lab.routers)
    )
    names = (("fraction", "share of large"), ("absolute", text.UNITS[lab.summary["cost_unit"]]))
    axes = "".join(
        _button("axis", key, name, key == "fraction")
        for key, name in (*names, ("rate", "deferral rate"))
    )
    label = esc(f"Quality against cost. {text.finding(lab)} The tables below hold the numbers.")
    return f"""<section><h2>What each query sent on buys</h2>
{terms("quality", "cost", "random", "oracle")}
<div class="controls">
<fieldset><legend>Routers, the largest area first</legend><div class="buttons">{buttons}</div>
</fieldset>
<fieldset><legend>Horizontal axis</legend><div class="buttons">{axes}</div></fieldset></div>
<div class="chart large" id="curves" role="img" aria-label="{label}"></div>
<p class="caption">{esc(text.caption(lab))} Grey: random (dashed) and oracle (dotted). The band
and the circle belong to the operating point below.</p>
</section>"""


def operate(lab: Lab) -> str:
    """The slider that reads out what to deploy, and what it costs."""
    if not lab.deployable:
        return ""
    options = "".join(
        f'<option value="{esc(r.name)}">{esc(r.name)}</option>' for r in lab.deployable
    )
    outputs = {
        "rate": "sent on",
        "threshold": "threshold to deploy",
        "quality": "quality",
        "change": "against large alone",
        "cost": "cost",
    }
    cells = "".join(
        f'<div><dt>{name}</dt><dd><span id="out-{key}">–</span>'
        f'<small id="out-{key}-note"></small></dd></div>'
        for key, name in outputs.items()
    )
    label = "Mean cost per query of each router at this target rate: small model, router, large."
    return f"""<section><h2>Choose your operating point</h2>
<p id="protocol">{esc(_protocol(lab))}</p>
<div class="operate">
<label>router <select id="operate-router">{options}</select></label>
<label class="wide">target deferral rate
<input type="range" id="operate-rate" min="0" max="{len(RATES) - 1}" step="1" value="30"></label>
</div>
<output for="operate-router operate-rate" aria-live="polite">
<dl class="facts">{cells}</dl></output>
<h3>Deploy it</h3>
<div class="command"><pre id="command" tabindex="0" aria-label="command line"></pre>
<button type="button" id="copy">Copy</button></div>
<p class="caption" id="deploy-note" aria-live="polite"></p>
<h3>Who is paid</h3>
{_key(PARTS)}
<div class="chart" id="parts" role="img" aria-label="{label}"></div>
<p class="caption">Each router switched on above, at the same target rate.</p>
</section>"""


def routers(lab: Lab) -> str:
    """The table of routers."""
    names = ("AUDC", "gap closed", "behind", "cost area", "saving", "CPT", "AUROC")
    return f"""<section><h2>Routers by area</h2>
{tables.routers(lab)}
{terms(*names, "ρ with length", "at 50 %")}
</section>"""


def gap(lab: Lab) -> str:
    """How far each router is from perfect, and whose fault the rest is."""
    label = "The area of each router between random and a perfect 1, in four steps."
    height = 5 + 1.7 * max(len(lab.deployable), 1)
    return f"""<section><h2>What is left to gain</h2>
{terms(*STEPS)}
{_key(STEPS)}
<div class="chart" id="gap" style="height: {height:g}rem" role="img" aria-label="{label}"></div>
<p class="caption">From random's area on the left. A router below random earns less than
nothing: its bar goes back from there.</p>
{tables.gap(lab)}
</section>"""


def reliability(lab: Lab) -> str:
    """Whether a higher score means a larger gain."""
    label = "Mean gain of sending a query on, in ten groups of queries by rising score."
    return f"""<section><h2>Do the scores mean what they say?</h2>
<p>Queries in ten groups by rising score: the mean gain of sending them on. A good score rises
to the right; one that is flat knows nothing, and where it falls below zero the large model is
worse.</p>
<div class="chart large" id="reliability" role="img" aria-label="{label}"></div>
<p class="caption">Dotted: the oracle. Intervals (95 %, normal) of the operating point's router.
Equal scores stay in one group, so there may be fewer than ten.</p>
</section>"""


def tasks(lab: Lab) -> str:
    """Small multiples on shared axes and a table, the largest effect first."""
    title = "<section><h2>Task by task</h2>"
    if not lab.panels:
        return f'{title}<p class="missing">Not evaluated per task: add --by-task.</p></section>'
    figures = "".join(
        f"<figure><figcaption>{esc(p.task)} <span>{fixed(p.effect, sign='+')}, n = {p.n:,}</span>"
        f'</figcaption><div class="chart small" id="task-{i}" role="img" '
        f'aria-label="{esc(p.task)}: quality against cost"></div></figure>'
        for i, p in enumerate(lab.panels)
    )
    leader = lab.routers[0].name
    return f"""{title}
<p class="caption">The routers switched on above, on shared axes: quality against cost, in units of
the large model's mean over all tasks where it has a cost. Ordered by effect: what {esc(leader)}
adds to the AUDC of random.</p>
<div class="grid">{figures}</div>
{tables.tasks(lab)}
</section>"""


def notes(lab: Lab) -> str:
    """What the reader should hold against the numbers."""
    items = "".join(f"<li>{esc(line)}</li>" for line in text.notes(lab))
    return f'<section><h2>What to keep in mind</h2><ul class="notes">{items}</ul></section>'


def terms(*names: str) -> str:
    """One line of explanation per term."""
    lines = (f"<dfn>{esc(n)}</dfn> {esc(text.GLOSSARY[n])}" for n in names)
    return f'<p class="terms">{"".join(f"<span>{line}</span>" for line in lines)}</p>'


def swatch(place: int) -> str:
    """A sample of the line of the router at this place."""
    hue, turn = place % len(style.HUES), place // len(style.HUES)
    dash = " ".join(map(str, style.DASHES[turn % len(style.DASHES)]))
    return (
        '<svg width="26" height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" '
        f'style="stroke: var(--hue-{hue})" stroke-width="2.5" stroke-dasharray="{dash}"/></svg>'
    )


def _protocol(lab: Lab) -> str:
    if lab.transfer:
        return (
            f"Transfer: each threshold was chosen on '{lab.fit_split}' for the target rate, then "
            f"applied once to '{lab.test_split}'. The numbers are what it gave there."
        )
    return (
        f"Sweep, not transfer: without a split '{lab.fit_split}' thresholds are read off the "
        f"queries of '{lab.test_split}' that judge them. Expect less on queries to come."
    )


def _cells(facts: Sequence[tuple[str, str, str]]) -> str:
    return "".join(
        f"<div><dt>{esc(name)}</dt><dd>{esc(value)}<small>{esc(note)}</small></dd></div>"
        for name, value, note in facts
    )


def _button(kind: str, value: str, name: str, on: bool, icon: str = "") -> str:
    return (
        f'<button type="button" data-kind="{kind}" data-value="{esc(value)}" '
        f'aria-pressed="{str(on).lower()}">{icon}{esc(name)}</button>'
    )


def _key(names: Sequence[str]) -> str:
    """A legend whose colours are the style sheet's ``--part-<i>``."""
    items = "".join(
        f'<li><svg width="12" height="12" aria-hidden="true"><rect width="12" height="12" rx="2" '
        f'style="fill: var(--part-{i})"/></svg>{esc(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="key">{items}</ul>'
