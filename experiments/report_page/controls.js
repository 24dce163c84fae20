"use strict";
/* Toggles, the operating-point slider, and redrawing on theme and print. */
const shown = { axis: "fraction", arms: new Set(data.shown_arms), routers: new Set(data.shown_routers) };

function pairsShown() {
  return data.arms.flatMap((a) => data.routers.map((r) => [a.name, r.name])).filter(
    ([a, r]) => shown.arms.has(a) && shown.routers.has(r) && (data.curves[a] || {})[r]);
}

function operatingPoint() {
  const [a, r] = [byId("operate-arm"), byId("operate-router")];
  if (!a) return null;
  const curve = (data.curves[a.value] || {})[r.value];
  if (!curve) return null;
  const k = Math.round(Number(byId("operate-rate").value) / 100 * (curve.deferral_rate.length - 1));
  return { arm: a.value, router: r.value, curve, k };
}

function readOut() {
  const point = operatingPoint();
  const set = (id, text) => { byId(id).textContent = text; };
  if (!byId("operate-arm")) return;
  if (!point) {
    ["out-threshold", "out-quality", "out-flops", "out-rate"].forEach((id) => set(id, "–"));
    set("out-quality-note", "this arm has no curve under this router");
    return;
  }
  const { curve: c, k } = point;
  set("out-threshold", fixed(c.threshold[k], 4));
  set("out-rate", percent(c.deferral_rate[k]));
  set("out-quality", fixed(c.quality[k], 3));
  set("out-quality-note", c.quality_lo[k] == null ? "no interval" :
    `95 % interval ${fixed(c.quality_lo[k], 3)} to ${fixed(c.quality_hi[k], 3)}`);
  set("out-flops", `${fixed(c.flops[k] / data.large_flops, 3)} × large`);
  set("out-flops-note", `${short(c.flops[k])} per query`);
  byId("operate-rate").setAttribute("aria-valuetext",
    `${percent(c.deferral_rate[k])} sent on, quality ${fixed(c.quality[k], 3)}, threshold ${fixed(c.threshold[k], 4)}`);
}

function redrawCurves() { drawCurves(shown.axis, pairsShown(), operatingPoint()); }

function redrawAll() { redrawCurves(); drawTasks(); drawTraining(); }

function press(button) {
  const { kind, value } = button.dataset;
  if (kind === "axis") {
    shown.axis = value;
  } else {
    const set = shown[kind];
    if (!set.delete(value)) set.add(value);
  }
  document.querySelectorAll("button[data-kind]").forEach((b) => {
    const on = b.dataset.kind === "axis" ? shown.axis === b.dataset.value : shown[b.dataset.kind].has(b.dataset.value);
    b.setAttribute("aria-pressed", String(on));
  });
  redrawCurves();
}

document.querySelectorAll("button[data-kind]").forEach((b) => b.addEventListener("click", () => press(b)));
["operate-arm", "operate-router", "operate-rate"].map(byId).filter(Boolean).forEach((control) =>
  control.addEventListener("input", () => { readOut(); redrawCurves(); }));
[DARK, NARROW].forEach((query) => query.addEventListener("change", redrawAll));
addEventListener("beforeprint", () => { printing = true; redrawAll(); });
addEventListener("afterprint", () => { printing = false; redrawAll(); });

readOut();
redrawAll();
document.documentElement.dataset.drawn = "yes";
