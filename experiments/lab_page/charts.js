"use strict";
/* Draws the charts of the router laboratory from #data. Names are data: always escaped. */
const scale = data.large_cost > 0 ? data.large_cost : 1;
const ofLarge = data.large_cost > 0 ? " / large-only" : "";
const router = (name) => data.routers.find((entry) => entry.name === name);
const color = (entry) => (isDark() ? entry.dark : entry.light);
const part = (i) => getComputedStyle(document.documentElement).getPropertyValue(`--part-${i}`).trim();
const amount = (value) =>
  (data.unit === "flops" ? short(value) : `$${Number(value.toPrecision(4))}`);
const share = (cost) => (ofLarge ? `${fixed(cost / scale, 3)} × large` : amount(cost));
const threshold = (value) => (value == null ? "∞ (nobody)" : minus(String(Number(value.toPrecision(6)))));
const ends = (low, high, digits) => (low == null ? "" : ` [${fixed(low, digits)}, ${fixed(high, digits)}]`);

const AXES = {
  fraction: { title: `mean cost per query${ofLarge}`, of: (c) => c.cost.map((f) => f / scale) },
  absolute: { title: `mean ${data.unit_name} per query`, of: (c) => c.cost },
  rate: { title: "deferral rate", of: (c) => c.deferral_rate },
};

function hover(name, c) {
  return c.deferral_rate.map((rate, k) =>
    `<b>${plain(name)}</b><br>threshold ${threshold(c.threshold[k])}<br>deferral rate ${percent(rate)}` +
    `<br>quality ${fixed(c.quality[k], 3)}${ends(c.quality_lo[k], c.quality_hi[k], 3)}` +
    `<br>${data.unit_name} ${amount(c.cost[k])} (${share(c.cost[k])})`);
}

function line(entry, how, strong) {
  const c = entry.sweep;
  return {
    x: how.of(c), y: c.quality, name: plain(entry.name), text: hover(entry.name, c), mode: "lines",
    hovertemplate: "%{text}<extra></extra>",
    line: { color: color(entry), width: strong ? 3 : 2, dash: entry.dash },
  };
}

function band(entry, how) {
  const [c, x] = [entry.sweep, how.of(entry.sweep)];
  if (c.quality_lo.some((value) => value == null)) return [];
  return [{
    x: [...x, ...[...x].reverse()], y: [...c.quality_hi, ...[...c.quality_lo].reverse()],
    fill: "toself", fillcolor: `${color(entry)}26`, line: { width: 0 }, mode: "lines", hoverinfo: "skip",
  }];
}

function references(how) {
  return ["random", "oracle"].map((name) => ({
    x: how.of(data[name]), y: data[name].quality, text: hover(name, data[name]), mode: "lines",
    hovertemplate: "%{text}<extra></extra>",
    line: { color: colors().quiet, width: 1.5, dash: name === "random" ? "dash" : "dot" },
  }));
}

function ending(axisName) {
  const at = (cost, rate) => ({ fraction: cost / scale, absolute: cost, rate })[axisName];
  const c = colors();
  const dot = (name, cost, rate, quality, symbol, position) => ({
    x: [at(cost, rate)], y: [quality], mode: "markers+text", text: [name], textposition: position,
    textfont: { size: 12, color: c.ink, weight: 600 }, cliponaxis: false, hoverinfo: "text",
    hovertext: [`<b>${name}</b><br>quality ${fixed(quality, 3)}<br>${data.unit_name} ${amount(cost)}`],
    marker: { size: 10, symbol, color: c.ink },
  });
  return [
    dot("S-only", data.small_cost, 0, data.quality.small, "circle", "bottom right"),
    dot("L-only", data.large_cost, 1, data.quality.large, "diamond", "top center"),
  ];
}

/* The deployed point: chosen on the fit split, so it need not lie on the sweep's line. */
function circle(axisName, point) {
  const c = point.entry.operate;
  return {
    x: [AXES[axisName].of(c)[point.k]], y: [c.quality[point.k]], mode: "markers", hoverinfo: "skip",
    marker: { size: 15, symbol: "circle-open", color: colors().ink, line: { width: 2.5 } },
  };
}

function drawCurves(axisName, entries, point) {
  const how = AXES[axisName];
  const traces = [
    ...(point ? band(point.entry, how) : []), ...references(how),
    ...entries.map((entry) => line(entry, how, point && entry === point.entry)),
    ...ending(axisName), ...(point ? [circle(axisName, point)] : []),
  ];
  const x = axis(how.title, {
    rangemode: "tozero", tickformat: axisName === "absolute" ? "~s" : "~g",
    type: axisName !== "rate" && data.log_axis ? "log" : "linear",
  });
  draw("curves", traces, layout(x, axis("quality")));
}

function bars(y, x, base, fill, text) {
  return {
    type: "bar", orientation: "h", y, x, base, marker: { color: fill }, hovertext: text,
    hoverinfo: "text", width: 0.62,
  };
}

/* Rows of a bar chart by place, so that two names that look alike stay apart. */
function rowAxis(names) {
  const most = NARROW.matches ? 18 : 40;
  const label = (name) => plain(name.length > most ? `${name.slice(0, most - 1)}…` : name);
  return axis("", {
    tickvals: names.map((_, i) => i), ticktext: names.map(label), showgrid: false,
    range: [names.length - 0.5, -0.5], ticks: "", ticklabelstandoff: 6, fixedrange: true,
  });
}

function drawParts(entries, k) {
  if (!byId("parts")) return;
  const rows = entries.filter((entry) => entry.operate).map((entry) => ({
    name: entry.name, parts: ["small_cost", "router_cost", "large_cost"].map((n) => entry.operate[n][k]),
  }));
  rows.unshift({ name: "small alone", parts: [data.small_cost, 0, 0] });
  rows.push({ name: "large alone", parts: [0, 0, data.large_cost] });
  const total = (row) => row.parts.reduce((a, b) => a + b, 0);
  const names = ["small model", "router", "large model"];
  const traces = names.map((name, i) => bars(
    rows.map((_, row) => row), rows.map((row) => row.parts[i] / scale),
    rows.map((row) => row.parts.slice(0, i).reduce((a, b) => a + b, 0) / scale), part(i),
    rows.map((row) => `<b>${plain(row.name)}</b><br>${name} ${amount(row.parts[i])}` +
      `<br>together ${amount(total(row))} (${share(total(row))})`)));
  byId("parts").style.height = `${5 + 1.7 * rows.length}rem`;
  draw("parts", traces, layout(axis(`mean cost per query${ofLarge}`, { rangemode: "tozero" }),
    rowAxis(rows.map((row) => row.name)), { barmode: "overlay" }));
}

function drawGap() {
  const entries = data.routers.filter((entry) => !entry.peeks);
  if (!entries.length) return;
  const y = entries.map((_, row) => row);
  const random = entries.map((entry) => entry.audc - entry.gap.earned[0]);
  const oracle = entries.map((entry) => entry.audc + entry.gap.ranking[0]);
  const ceiling = entries.map((entry, i) => oracle[i] + entry.gap.small_model[0]);
  const from = entries.map((entry, i) => Math.max(entry.audc, random[i]));
  const told = (name, key) => entries.map((entry) => {
    const [value, low, high] = entry.gap[key];
    return `<b>${plain(entry.name)}</b><br>${name} ${fixed(value, 4)}${ends(low, high, 4)}`;
  });
  const minusEach = (a, b) => a.map((value, i) => value - b[i]);
  const traces = [
    bars(y, entries.map((entry) => entry.gap.earned[0]), random, part(0), told("earned", "earned")),
    bars(y, minusEach(oracle, from), from, part(1), told("perfect ranking", "ranking")),
    bars(y, minusEach(ceiling, oracle), oracle, part(2), told("perfect small model", "small_model")),
    bars(y, ceiling.map((value) => 1 - value), ceiling, part(3), told("neither model", "both_models")),
  ];
  const low = Math.min(...random, ...entries.map((entry) => entry.audc));
  const x = axis("AUDC", { range: [low - 0.02 * (1 - low), 1] });
  draw("gap", traces, layout(x, rowAxis(entries.map((entry) => entry.name)), { barmode: "overlay" }));
}

function place(counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  let before = 0;
  return counts.map((count) => { before += count; return (before - count / 2) / total; });
}

/* The oracle's groups as steps: few and large where gains are 0 or 1. */
function staircase(groups) {
  const total = groups.count.reduce((a, b) => a + b, 0);
  const edges = [0];
  groups.count.forEach((count) => edges.push(edges[edges.length - 1] + count / total));
  return {
    x: groups.count.flatMap((_, i) => [edges[i], edges[i + 1]]), y: groups.gain.flatMap((v) => [v, v]),
    mode: "lines", hoverinfo: "skip", line: { color: colors().quiet, width: 1.5, dash: "dot" },
  };
}

function drawReliability(entries, point) {
  const drawn = entries.filter((entry) => !entry.peeks);
  const traces = drawn.map((entry) => {
    const g = entry.groups;
    const chosen = point && entry === point.entry;
    return {
      x: place(g.count), y: g.gain, mode: "lines+markers", name: plain(entry.name),
      line: { color: color(entry), width: chosen ? 3 : 1.6, dash: entry.dash },
      marker: { size: chosen ? 7 : 5 },
      error_y: chosen && g.gain_lo[0] != null ? {
        type: "data", symmetric: false, thickness: 1.4, width: 3,
        array: g.gain_hi.map((v, i) => v - g.gain[i]), arrayminus: g.gain.map((v, i) => v - g.gain_lo[i]),
      } : undefined,
      text: g.gain.map((gain, i) => `<b>${plain(entry.name)}</b><br>mean score ${threshold(g.score[i])}` +
        `<br>mean gain ${fixed(gain, 3)}${ends(g.gain_lo[i], g.gain_hi[i], 3)}<br>n = ${g.count[i]}`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const x = axis("queries by rising score", { range: [0, 1], tickformat: ".0%" });
  const gains = drawn.flatMap((entry) => entry.groups.gain);
  const [low, high] = [Math.min(0, ...gains) - 0.08, Math.max(0, ...gains) + 0.08];
  const y = axis("mean gain of sending on", {
    zeroline: true, zerolinecolor: colors().quiet, range: [low, high],
  });
  draw("reliability", [staircase(data.oracle_groups), ...traces], layout(x, y));
}

function drawTasks(entries) {
  const every = data.panels.flatMap((panel) => Object.values(panel.curves));
  if (!every.length) return;
  const ys = every.flatMap((c) => c.quality);
  const pad = 0.05 * (Math.max(...ys) - Math.min(...ys) || 1);
  const yRange = [Math.min(...ys) - pad, Math.max(...ys) + pad];
  const xRange = [0, 1.04 * Math.max(...every.flatMap((c) => c.cost)) / scale];
  data.panels.forEach((panel, i) => {
    const traces = entries.map((entry) => ({
      x: AXES.fraction.of(panel.curves[entry.name]), y: panel.curves[entry.name].quality, mode: "lines",
      line: { color: color(entry), width: 2, dash: entry.dash },
      hovertemplate: `<b>${plain(entry.name)}</b><br>quality %{y:.3f}<br>cost %{x:.3~g}<extra></extra>`,
    }));
    const chord = {
      x: AXES.fraction.of(panel.random), y: panel.random.quality, mode: "lines", hoverinfo: "skip",
      line: { color: colors().quiet, width: 1.4, dash: "dash" },
    };
    const how = layout(axis("", { range: xRange, nticks: 4 }), axis("", { range: yRange, nticks: 5 }));
    draw(`task-${i}`, [chord, ...traces], how);
  });
}
