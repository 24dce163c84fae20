"use strict";
/* What every page needs: the data in #data, numbers as text, plotly in the page's colours, sortable tables. */
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const DARK = matchMedia("(prefers-color-scheme: dark)");
const COARSE = matchMedia("(pointer: coarse)").matches;
const NARROW = matchMedia("(max-width: 40rem)");
let printing = false;

/* Plotly reads a little HTML and %{...} in its texts; a name must mean only itself. */
const plain = (text) =>
  String(text).replace(/[&<>"'%]/g, (c) => `&#${c.charCodeAt(0)};`);
const minus = (text) => text.replace("-", Number(text) === 0 ? "" : "−");
const fixed = (value, digits) => (value == null ? "–" : minus(value.toFixed(digits)));
const percent = (value) => `${fixed(100 * value, 1)} %`;
function short(value) {
  const units = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];
  const unit = units.find(([, size]) => Math.abs(value) >= size);
  return unit ? `${(value / unit[1]).toFixed(1)} ${unit[0]}` : value.toFixed(0);
}

const isDark = () => DARK.matches && !printing;

function colors() {
  return isDark()
    ? { ink: "#e8e8e6", quiet: "#a3a8ae", rule: "#2c3036", paper: "#15171a", halo: "rgba(21,23,26,.85)" }
    : { ink: "#1a1a1a", quiet: "#6b6b6b", rule: "#e6e6e6", paper: "#ffffff", halo: "rgba(255,255,255,.85)" };
}

function axis(title, extra = {}) {
  const c = colors();
  return {
    title: { text: title, font: { size: 13 }, standoff: 8 }, gridcolor: c.rule, zeroline: false,
    linecolor: c.quiet, showline: true, ticks: "outside", tickcolor: c.quiet, ticklen: 4,
    automargin: true, fixedrange: COARSE, ...extra,
  };
}

function layout(x, y, extra = {}) {
  const c = colors();
  return {
    paper_bgcolor: c.paper, plot_bgcolor: c.paper, showlegend: false, hovermode: "closest",
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12, color: c.ink },
    hoverlabel: { bgcolor: c.paper, bordercolor: c.quiet, font: { color: c.ink, size: 13 }, align: "left" },
    margin: { l: 8, r: 12, t: 12, b: 8 }, dragmode: COARSE ? false : "zoom", xaxis: x, yaxis: y, ...extra,
  };
}

const draw = (id, traces, how) =>
  Plotly.react(byId(id), traces, how, { responsive: true, displayModeBar: false });

function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = header.cellIndex;
  const up = header.getAttribute("aria-sort") === "descending";
  table.querySelectorAll("th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.sort;
  const order = (p, q) => {
    const [a, b] = [key(p), key(q)];
    if (a === "" || b === "") return (a === "") - (b === "");  // unknown values last, either way
    const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b) : Number(a) - Number(b);
    return up ? difference : -difference;
  };
  [...body.rows].sort(order).forEach((row) => body.append(row));
}

document.querySelectorAll("th[aria-sort] button").forEach((b) =>
  b.addEventListener("click", () => sortBy(b.closest("th"))));
