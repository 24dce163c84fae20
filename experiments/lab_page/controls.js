"use strict";
/* Toggles, the operating point's slider and command line, and redrawing on theme and print. */
const shown = { axis: "fraction", routers: new Set(data.shown) };

function operatingPoint() {
  const select = byId("operate-router");
  return select && { entry: router(select.value), k: Number(byId("operate-rate").value) };
}

function entriesShown(point) {
  return data.routers.filter((entry) => shown.routers.has(entry.name) || (point && entry === point.entry));
}

const limit = { inf: "∞", "-inf": "−∞" };
const told = (value) => limit[value] || threshold(Number(value));

function readOut(point) {
  if (!point) return;
  const { entry, k } = point;
  const c = entry.operate;
  const set = (id, text) => { byId(`out-${id}`).textContent = text; };
  set("rate", percent(c.deferral_rate[k]));
  set("rate-note", `target ${k} %`);
  set("threshold", told(c.threshold[k]));
  set("threshold-note", { inf: "nothing is sent on", "-inf": "everything is sent on" }[c.threshold[k]] ||
    "send on at or above it");
  set("quality", fixed(c.quality[k], 3));
  set("quality-note", c.quality_lo[k] == null ? "no interval" :
    `95 % interval ${fixed(c.quality_lo[k], 3)} to ${fixed(c.quality_hi[k], 3)}`);
  set("change", fixed(c.change[k], 3));
  set("change-note", c.change_lo[k] == null ? "no interval" :
    `95 % interval ${fixed(c.change_lo[k], 3)} to ${fixed(c.change_hi[k], 3)}`);
  set("cost", share(c.cost[k]));
  set("cost-note", `${amount(c.cost[k])} ${data.unit === "flops" ? "FLOPs " : ""}per query`);
  byId("operate-rate").setAttribute("aria-valuetext",
    `target ${k} %: ${percent(c.deferral_rate[k])} sent on, quality ${fixed(c.quality[k], 3)}, ` +
    `cost ${share(c.cost[k])}, threshold ${told(c.threshold[k])}`);
  command(entry, k);
}

function command(entry, k) {
  const [before, after] = entry.command;
  byId("command").textContent = `${before}${k / 100}${after}`;
  byId("deploy-note").textContent = "Writes a policy with this threshold. For a promise about " +
    "quality, replace the target: --max-quality-loss 0.02 --delta 0.1.";
}

function copy() {
  const text = byId("command").textContent;
  const done = () => { byId("deploy-note").textContent = "Copied."; };
  const mark = () => getSelection().selectAllChildren(byId("command"));
  if (!navigator.clipboard) { mark(); return; }
  navigator.clipboard.writeText(text).then(done, mark);
}

function redraw() {
  const point = operatingPoint();
  const entries = entriesShown(point);
  readOut(point);
  drawCurves(shown.axis, entries, point);
  drawParts(entries, point ? point.k : 0);
  drawReliability(entries, point);
  return entries;
}

function redrawAll() {
  drawTasks(redraw());
  drawGap();
}

function press(button) {
  const { kind, value } = button.dataset;
  if (kind === "axis") shown.axis = value;
  else if (!shown.routers.delete(value)) shown.routers.add(value);
  document.querySelectorAll("button[data-kind]").forEach((b) => {
    const on = b.dataset.kind === "axis" ? shown.axis === b.dataset.value : shown.routers.has(b.dataset.value);
    b.setAttribute("aria-pressed", String(on));
  });
  drawTasks(redraw());
}

document.querySelectorAll("button[data-kind]").forEach((b) => b.addEventListener("click", () => press(b)));
if (byId("operate-router")) {
  byId("operate-router").addEventListener("input", () => drawTasks(redraw()));
  byId("operate-rate").addEventListener("input", redraw);
  byId("copy").addEventListener("click", copy);
}
[DARK, NARROW].forEach((query) => query.addEventListener("change", redrawAll));
addEventListener("beforeprint", () => { printing = true; redrawAll(); });
addEventListener("afterprint", () => { printing = false; redrawAll(); });

redrawAll();
document.documentElement.dataset.drawn = "yes";
