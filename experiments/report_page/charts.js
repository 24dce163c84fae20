"use strict";
/* Draws every chart of the report from the JSON in #data. Names are data: always escaped. */
function arm(name) {
  const entry = data.arms.find((one) => one.name === name);
  return { ...entry, color: isDark() ? entry.dark : entry.light };
}
const router = (name) => data.routers.find((entry) => entry.name === name);

const AXES = {
  fraction: { title: "mean FLOPs per query / large-only", of: (c) => c.flops.map((f) => f / data.large_flops) },
  absolute: { title: "mean FLOPs per query", of: (c) => c.flops },
  rate: { title: "deferral rate", of: (c) => c.deferral_rate },
};

function hover(armName, routerName, c) {
  const scale = data.large_flops;
  return c.deferral_rate.map((rate, k) => {
    const spread = c.quality_lo[k] == null ? "" : ` [${fixed(c.quality_lo[k], 3)}, ${fixed(c.quality_hi[k], 3)}]`;
    return `<b>${plain(armName)}</b> · ${plain(routerName)}<br>threshold ${fixed(c.threshold[k], 4)}` +
      `<br>deferral rate ${percent(rate)}<br>quality ${fixed(c.quality[k], 3)}${spread}` +
      `<br>FLOPs ${short(c.flops[k])} (${fixed(c.flops[k] / scale, 3)} of large)`;
  });
}

function band(c, x, color) {
  if (c.quality_lo.some((value) => value == null)) return [];
  return [{
    x: [...x, ...[...x].reverse()], y: [...c.quality_hi, ...[...c.quality_lo].reverse()],
    fill: "toself", fillcolor: color + "22", line: { width: 0 }, mode: "lines", hoverinfo: "skip",
  }];
}

function line(armName, routerName, x, c) {
  const look = arm(armName);
  return {
    x, y: c.quality, name: `${plain(armName)} · ${plain(routerName)}`, text: hover(armName, routerName, c),
    hovertemplate: "%{text}<extra></extra>", mode: look.marker ? "lines+markers" : "lines",
    line: { color: look.color, width: 2.2, dash: router(routerName).dash },
    marker: { symbol: look.marker || "circle", maxdisplayed: 8, size: 6 },
  };
}

function references(how) {
  const c = colors();
  return ["random", "oracle"].flatMap((name) => {
    const curve = (data.curves[data.baseline] || {})[name];
    if (!curve) return [];
    const text = hover(data.baseline, name, curve);
    return [{
      x: how.of(curve), y: curve.quality, text, hovertemplate: "%{text}<extra></extra>", mode: "lines",
      line: { color: c.quiet, width: 1.4, dash: name === "random" ? "dash" : "dot" },
    }];
  });
}

function endPoints(axisName, names) {
  const at = (flops, rate) => ({ fraction: flops / data.large_flops, absolute: flops, rate })[axisName];
  const c = colors();
  const dots = names.map((name) => arm(name)).filter((entry) => entry.point);
  const lowest = dots.reduce((a, b) => (a && a.point[1] <= b.point[1] ? a : b), null);
  const common = { mode: "markers+text", textfont: { size: 12, color: c.ink, weight: 600 }, cliponaxis: false };
  const small = {
    ...common, x: dots.map((d) => at(d.point[0], 0)), y: dots.map((d) => d.point[1]),
    text: dots.map((d) => (d === lowest ? "S-only" : "")), textposition: "bottom right",
    hovertext: dots.map((d) => `<b>${plain(d.name)}</b> small model alone<br>quality ${fixed(d.point[1], 3)}`),
    hoverinfo: "text", marker: { size: 9, color: dots.map((d) => d.color) },
  };
  const large = {
    ...common, x: [at(data.large_flops, 1)], y: [data.large_quality], text: ["L-only"],
    textposition: "top center", hoverinfo: "text",
    hovertext: [`<b>large model alone</b><br>quality ${fixed(data.large_quality, 3)}`],
    marker: { size: 10, symbol: "diamond", color: c.ink },
  };
  return [small, large];
}

function findingArrow(axisName, pairs) {
  const f = data.arrow;
  const drawn = (want) => pairs.some((pair) => pair[0] === want[0] && pair[1] === want[1]);
  if (!f || axisName === "rate" || !f.lines.every(drawn)) return [];
  const c = colors();
  const unit = axisName === "fraction" ? data.large_flops : 1;
  const [from, to] = [f.flops_from / unit, f.flops_to / unit];
  const arrow = {
    x: to, y: f.quality, ax: from, ay: f.quality, xref: "x", yref: "y", axref: "x", ayref: "y",
    text: "", showarrow: true, arrowhead: 2, arrowwidth: 2, arrowcolor: c.ink,
  };
  const place = NARROW.matches
    ? { x: 1, xref: "paper", xanchor: "right", yshift: -16 }
    : { x: Math.max(from, to), xref: "x", xanchor: "left", xshift: 6 };
  const label = {
    ...place, y: f.quality, yref: "y", showarrow: false, text: `<b>${plain(f.label)}</b>`,
    bgcolor: c.halo, font: { size: NARROW.matches ? 11 : 13, color: c.ink },
  };
  return [arrow, label];
}

function drawCurves(axisName, pairs, chosen) {
  if (!byId("curves")) return;
  const how = AXES[axisName];
  const drawn = pairs.map(([a, r]) => [a, r, data.curves[a][r]]);
  const point = chosen ? [{
    x: [how.of(chosen.curve)[chosen.k]], y: [chosen.curve.quality[chosen.k]], mode: "markers", hoverinfo: "skip",
    marker: { size: 15, symbol: "circle-open", color: colors().ink, line: { width: 2.5 } },
  }] : [];
  const traces = [
    ...drawn.flatMap(([a, , c]) => band(c, how.of(c), arm(a).color)),
    ...references(how),
    ...drawn.map(([a, r, c]) => line(a, r, how.of(c), c)),
    ...endPoints(axisName, [...new Set(pairs.map(([a]) => a))]),
    ...point,
  ];
  const x = axis(how.title, {
    rangemode: "tozero", tickformat: axisName === "absolute" ? "~s" : "~g",
    type: axisName !== "rate" && data.log_axis ? "log" : "linear",
  });
  draw("curves", traces, layout(x, axis(data.quality_label), { annotations: findingArrow(axisName, pairs) }));
}

function drawTasks() {
  const every = data.panels.flatMap((panel) => Object.values(panel.curves));
  const ys = every.flatMap((c) => c.quality);
  const pad = 0.05 * (Math.max(...ys) - Math.min(...ys) || 1);
  const yRange = [Math.min(...ys) - pad, Math.max(...ys) + pad];
  const xRange = [0, 1.04 * Math.max(...every.flatMap((c) => c.flops)) / data.large_flops];
  data.panels.forEach((panel, i) => {
    const traces = Object.entries(panel.curves).map(([name, c]) => ({
      x: AXES.fraction.of(c), y: c.quality, mode: arm(name).marker ? "lines+markers" : "lines",
      line: { color: arm(name).color, width: 2 }, marker: { symbol: arm(name).marker, maxdisplayed: 6 },
      hovertemplate: `<b>${plain(name)}</b><br>quality %{y:.3f}<br>FLOPs %{x:.3f} of large<extra></extra>`,
    }));
    const how = { range: xRange, tickvals: [0, 0.5, 1] };
    draw(`task-${i}`, traces, layout(axis("", how), axis("", { range: yRange, nticks: 5 })));
  });
}

function drawTraining() {
  const logs = Object.entries(data.training);
  if (!logs.length) return;
  const rates = logs.map(([name, log]) => ({
    x: log.step, y: log.keep_rate, mode: "lines", line: { color: arm(name).color, width: 2 },
    hovertemplate: `<b>${plain(name)}</b><br>step %{x:.0f}<br>kept %{y:.1%}<extra></extra>`,
  }));
  const share = () => axis("", { range: [0, 1.02], tickformat: ".0%", nticks: 5 });
  draw("kept", rates, layout(axis("optimiser step"), share()));
  logs.forEach(([, log], i) => {
    const traces = data.cells.map(([cell, color], row) => ({
      x: log.step, y: log.shares[row], stackgroup: "all", mode: "lines", fillcolor: color,
      line: { width: 0, color },
      hovertemplate: `${plain(cell)}<br>step %{x:.0f}<br>%{y:.1%}<extra></extra>`,
    }));
    draw(`shares-${i}`, traces, layout(axis("optimiser step"), share()));
  });
}
