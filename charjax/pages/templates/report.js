(() => {
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const LN2 = Math.log(2);
// Of the horizontal lines: ln V, unigram, Kneser-Ney.
const DASHES = [[8, 4], [2, 3], [10, 3, 2, 3]];
const CHARTS = [
  { key: "loss", title: "Loss: nats per character (left), bits per character (right)", first: true },
  { key: "learning_rate", title: "Learning rate" },
  { key: "grad_norm", title: "Gradient norm" },
  { key: "tokens_per_second", title: "Tokens per second" },
];
const state = {
  shown: RUNS.map(() => true),
  references: new Set(DATA.references.map((line) => line.label)),
  range: null,
};
let charts = [];

const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNumber = (value) => typeof value === "number";

function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function swatch(run) {
  return element("span", { class: `swatch run${run.hue}${run.dashed ? " dashed" : ""}` });
}

// Numbers

function short(value, digits = 4) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e12)) return value.toExponential(2).replace("+", "");
  return size >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(digits);
}

function precise(value) {
  return isNumber(value) ? String(+value.toPrecision(3)) : "–";
}

function nearest(steps, x) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - steps[low - 1] < steps[low] - x ? low - 1 : low;
}

function smoothed(values, weight) {
  let sum = 0, share = 0;
  return values.map((value) => {
    if (!isNumber(value)) return value;
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return sum / share;
  });
}

function limits() {
  const ends = RUNS.filter((_, place) => state.shown[place]).flatMap((run) =>
    [run.curves.train.step, run.curves.val.step].flatMap((steps) =>
      steps.length ? [steps[0], steps[steps.length - 1]] : []));
  return ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
}

// The legend above the curves: one row for each run, with its values at the cursor.

const rows = RUNS.map((run, place) => {
  const row = element("tr"), head = element("th"), label = element("label");
  const box = element("input", { type: "checkbox" });
  box.checked = true;
  box.addEventListener("change", () => {
    state.shown[place] = box.checked;
    row.classList.toggle("off", !box.checked);
    draw();
  });
  label.append(box, " ", swatch(run), run.name);
  head.append(label);
  row.append(head);
  const cells = Array.from({ length: 7 }, () => row.appendChild(element("td")));
  byId("legend").tBodies[0].append(row);
  return cells;
});

function showValues(x) {
  RUNS.forEach((run, place) => {
    const { train, val } = run.curves;
    const at = nearest(train.step, x), there = nearest(val.step, x);
    const step = train.step.length ? train.step[at] : val.step[there];
    const loss = val.loss.mean[there];
    const texts = [
      isNumber(step) ? step.toLocaleString("en") : "–",
      short(train.loss.mean[at]),
      short(loss) + (val.step[there] === step || !isNumber(loss) ? "" : ` (${val.step[there].toLocaleString("en")})`),
      short(isNumber(loss) ? loss / LN2 : null),
      precise(train.learning_rate.mean[at]),
      short(train.grad_norm.mean[at], 3),
      short(train.tokens_per_second.mean[at], 0),
    ];
    rows[place].forEach((cell, column) => { cell.textContent = texts[column]; });
  });
}

function showReferences() {
  const box = byId("references");
  for (const line of DATA.references) {
    const label = element("label"), tick = element("input", { type: "checkbox" });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of [["width", 34], ["height", 8]]) svg.setAttribute(name, value);
    const drawn = { x1: 0, x2: 34, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 1.5,
      "stroke-dasharray": DASHES[line.kind].join(" ") };
    for (const [name, value] of Object.entries(drawn)) stroke.setAttribute(name, value);
    svg.append(stroke);
    tick.checked = true;
    tick.addEventListener("change", () => {
      if (tick.checked) state.references.add(line.label); else state.references.delete(line.label);
      for (const other of box.querySelectorAll("input")) {
        if (other.dataset.label === line.label) other.checked = tick.checked;
      }
      draw();
    });
    tick.dataset.label = line.label;
    const whose = line.whose ? ` (${line.whose})` : "";
    label.append(tick, " ", svg, `${line.label}${whose}: ${short(line.loss)} nats, ${short(line.bits)} bits`);
    box.append(label);
  }
}

// Charts

const logarithmic = (chart) => byId(`log-${chart.key}`).checked;

function series(chart, place) {
  // Tables to be joined by step, and what is drawn of them.
  const run = RUNS[place], { train, val } = run.curves;
  const stroke = colour(`--run${run.hue}`), dash = run.dashed ? [6, 3] : undefined;
  const weight = Number(byId("smoothing").value);
  const tables = [], lines = [], bands = [];
  const curve = train[chart.key];
  if (train.step.length) {
    const table = [train.step, curve.mean];
    // A line of one point would not be seen.
    const points = { show: train.step.length < 3, size: 5, fill: stroke, stroke };
    lines.push({ stroke: weight ? stroke + "55" : stroke, width: 1, dash, points });
    if (weight) {
      table.push(smoothed(curve.mean, weight));
      lines.push({ stroke, width: 1.5, dash });
    }
    if (curve.low && byId("extremes").checked) {
      bands.push({ series: [table.length, table.length + 1], fill: stroke + "2e" });
      table.push(curve.high, curve.low);
      lines.push({ stroke: "transparent", width: 0 }, { stroke: "transparent", width: 0 });
    }
    tables.push(table);
  }
  if (chart.key === "loss" && val.step.length) {
    tables.push([val.step, val.loss.mean]);
    const points = val.step.length <= 200 ? { show: true, size: 5, fill: stroke, stroke } : { show: false };
    lines.push({ stroke, width: 2, dash, points });
  }
  return { tables, lines, bands };
}

function plotted(chart) {
  const tables = [], lines = [{}], bands = [];
  RUNS.forEach((_, place) => {
    if (!state.shown[place]) return;
    const one = series(chart, place);
    for (const band of one.bands) {
      // Numbers of series are those of the joined table.
      bands.push({ fill: band.fill, series: band.series.map((number) => number + lines.length - 1) });
    }
    tables.push(...one.tables);
    lines.push(...one.lines);
  });
  const isLog = logarithmic(chart);
  const cleaned = tables.map(([steps, ...columns]) => {
    const from = byId("log-step").checked ? steps.findIndex((step) => step > 0) : 0;
    return [steps.slice(from), ...columns.map((values) => values.slice(from).map((value) =>
      isLog && !(value > 0) ? null : value))];
  });
  for (const line of lines.slice(1)) {
    Object.assign(line, { spanGaps: false, points: line.points || { show: false } });
  }
  return { data: cleaned.length ? uPlot.join(cleaned) : [[0, 1], [null, null]],
    lines: cleaned.length ? lines : [{}, {}], bands };
}

function references() {
  return DATA.references.filter((line) => isNumber(line.loss) && state.references.has(line.label)
    && line.runs.some((place) => state.shown[place]));
}

function yRange(chart) {
  return (plot, low, high) => {
    if (low === null || high === null) return [0, 1];
    if (chart.first && state.range === null) {
      for (const line of references()) {
        low = Math.min(low, line.loss);
        high = Math.max(high, line.loss);
      }
    }
    if (logarithmic(chart)) return [low / 1.05, high * 1.05];
    const room = 0.05 * (high - low) || Math.abs(high) * 0.1 || 1;
    return [low >= 0 && low < room ? 0 : low - room, high + room];
  };
}

function drawMarks(chart, isWide) {
  return (plot) => {
    if (!chart.first) return;
    const { ctx, bbox } = plot, ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    ctx.lineWidth = 1.5 * ratio;
    ctx.strokeStyle = ctx.fillStyle = colour("--faint");
    let below = -Infinity;
    const inside = references().map((line) => [plot.valToPos(line.loss, "y", true), line])
      .filter(([y]) => y >= bbox.top && y <= bbox.top + bbox.height).sort((a, b) => a[0] - b[0]);
    for (const [y, line] of inside) {
      ctx.setLineDash(DASHES[line.kind].map((length) => length * ratio));
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      below = Math.max(y, below + 14 * ratio);
      if (isWide) ctx.fillText(gutterLabel(line), bbox.left + bbox.width + 52 * ratio, below);
    }
    ctx.setLineDash([]);
    RUNS.forEach((run, place) => {
      if (!run.best || !state.shown[place]) return;
      const x = plot.valToPos(run.best.step, "x", true), y = plot.valToPos(run.best.loss, "y", true);
      const isInside = x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1
        && y >= bbox.top - 1 && y <= bbox.top + bbox.height + 1;
      if (!isInside) return;
      ctx.lineWidth = 2.5 * ratio;
      ctx.strokeStyle = colour(`--run${run.hue}`);
      ctx.fillStyle = colour("--ground");
      ctx.beginPath();
      ctx.arc(x, y, 6 * ratio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.stroke();
    });
    ctx.restore();
  };
}

function gutterLabel(line) {
  const text = line.whose ? `${line.label.split(" ").pop()} ${line.whose}` : line.label;
  return text.length > 19 ? `${text.slice(0, 18)}…` : text;
}

let isSyncing = false;
function share(plot) {
  if (isSyncing || !charts.includes(plot)) return;
  const { min, max } = plot.scales.x, [first, last] = limits();
  state.range = min <= first && max >= last ? null : [min, max];
  zoom([min, max], plot);
}

function zoom(range, source = null) {
  isSyncing = true;
  for (const plot of charts) {
    if (plot !== source) plot.setScale("x", { min: range[0], max: range[1] });
  }
  // Their scales are set at the end of the task.
  queueMicrotask(() => queueMicrotask(() => { isSyncing = false; }));
}

function showRange(range) {
  state.range = range;
  zoom(range || limits());
}

let waiting = null;
function follow(plot) {
  if (waiting !== null) return;
  waiting = requestAnimationFrame(() => {
    waiting = null;
    const inside = plot.cursor.left >= 0;
    showValues(inside ? plot.posToVal(plot.cursor.left, "x") : Infinity);
  });
}

function options(chart, lines, bands, box) {
  const ink = colour("--faint"), grid = { stroke: colour("--line"), width: 1 };
  const isWide = box.clientWidth > 640;
  const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui, sans-serif", size: 52 };
  const distr = logarithmic(chart) ? 3 : 1;
  const scales = { x: { time: false, distr: byId("log-step").checked ? 3 : 1 },
    y: { distr, range: yRange(chart) } };
  const axes = [{ ...axis, size: 30, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : compact(tick)) },
    { ...axis, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : compact(tick)) }];
  if (chart.first) {
    scales.bits = { from: "y", distr, range: (_, low, high) => [low / LN2, high / LN2] };
    axes.push({ ...axis, scale: "bits", side: 1, grid: { show: false }, size: 46,
      values: axes[1].values });
  }
  const height = chart.first ? (isWide ? 360 : 280) : 190;
  return {
    width: box.clientWidth, height, scales, axes, bands, series: lines,
    padding: [8, chart.first ? (isWide ? 122 : 4) : 18, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "steps", setSeries: false }, drag: { x: true, y: false, setScale: true },
      points: { size: 6 }, y: false },
    hooks: { setScale: [(plot, key) => { if (key === "x") share(plot); }], setCursor: [follow],
      draw: [drawMarks(chart, isWide)] },
  };
}

function compact(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential().replace("+", "");
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  return String(+value.toPrecision(4));
}

function draw() {
  for (const plot of charts) plot.destroy();
  charts = [];
  CHARTS.forEach((chart, number) => {
    const box = byId("charts").children[number].lastElementChild;
    const { data, lines, bands } = plotted(chart);
    const plot = new uPlot(options(chart, lines, bands, box), data, box);
    plot.over.dataset.chart = chart.key;
    dragByTouch(plot.over);
    charts.push(plot);
  });
  zoom(state.range || limits());
  showValues(Infinity);
}

function dragByTouch(over) {
  // uPlot listens to a mouse; a horizontal drag of a finger is made one.
  const names = { touchstart: "mousedown", touchmove: "mousemove", touchend: "mouseup" };
  for (const [touch, mouse] of Object.entries(names)) {
    over.addEventListener(touch, (event) => {
      const { clientX, clientY } = event.changedTouches[0];
      // Without a movement uPlot would ignore it.
      const made = { clientX, clientY, movementX: 1, bubbles: true, button: 0, view: window };
      if (touch === "touchstart") over.dispatchEvent(new MouseEvent("mousemove", made));
      (touch === "touchend" ? document : over).dispatchEvent(new MouseEvent(mouse, made));
    }, { passive: true });
  }
}

function startCharts() {
  for (const chart of CHARTS) {
    const box = element("div", chart.first ? { class: "first" } : {});
    const head = element("h3", {}, chart.title), label = element("label");
    const tick = element("input", { type: "checkbox", id: `log-${chart.key}` });
    tick.addEventListener("change", draw);
    label.append(tick, " log");
    head.append(label);
    box.append(head, element("div"));
    byId("charts").append(box);
  }
  showReferences();
  draw();
  for (const id of ["smoothing", "log-step", "extremes"]) {
    byId(id).addEventListener("input", draw);
  }
  byId("zoom-all").addEventListener("click", () => showRange(null));
  for (const [id, share] of [["zoom-half", 0.5], ["zoom-tenth", 0.1]]) {
    byId(id).addEventListener("click", () => {
      const [first, last] = limits();
      showRange([last - share * (last - first), last]);
    });
  }
  let width = byId("charts").clientWidth;
  new ResizeObserver(() => {
    if (byId("charts").clientWidth === width) return;
    width = byId("charts").clientWidth;
    draw();
  }).observe(byId("charts"));
}

// The held-out text

const section = byId("passage");
let current = 0, against = null;

function level(loss) {
  return isNumber(loss) ? `level${DATA.levels.filter((end) => loss >= end).length}` : "";
}

function difference(loss, other) {
  if (!isNumber(loss) || !isNumber(other)) return "";
  const by = loss - other, size = Math.abs(by);
  if (size < 0.1) return "";
  const rank = size < 0.5 ? 0 : size < 1 ? 1 : 2;
  return by < 0 ? `better${rank + 1}` : `level${[2, 4, 6][rank]}`;
}

function paint() {
  const here = DATA.passages[current], other = against === null ? null : DATA.passages[against];
  const panel = section.querySelector(`.panel[data-run="${current}"]`);
  for (const span of panel.querySelectorAll(".passage span")) {
    const place = Number(span.dataset.i);
    span.className = other ? difference(here.loss[place], other.loss[place]) : level(here.loss[place]);
  }
  const [losses, differences] = section.querySelectorAll(".levels");
  losses.hidden = other !== null;
  differences.hidden = other === null;
}

function listAgainst() {
  const select = byId("against");
  if (!select) return;
  against = null;
  select.replaceChildren(element("option", { value: "" }, "loss"));
  const text = DATA.passages[current].text.join("");
  DATA.passages.forEach((passage, place) => {
    if (place === current || !text || passage.text.join("") !== text) return;
    select.append(element("option", { value: place }, `difference to ${RUNS[place].name}`));
  });
}

function predict(span) {
  const place = Number(span.dataset.i), here = DATA.passages[current];
  for (const other of section.querySelectorAll(".here")) other.classList.remove("here");
  span.classList.add("here");
  const truth = here.text[place].replace(/\\n$/, ""), loss = here.loss[place];
  const box = element("div"), list = element("ol");
  const words = isNumber(loss)
    ? `${loss.toFixed(3)} nats, probability ${Math.exp(-loss).toPrecision(2)}`
    : "nothing stands before it";
  box.append(element("strong", {}, truth === " " ? "space" : truth), ` ${words}`);
  if (against !== null && isNumber(loss)) {
    const other = DATA.passages[against].loss[place];
    if (isNumber(other)) box.append(element("div", {}, `${RUNS[against].name}: ${other.toFixed(3)} nats`));
  }
  for (const [text, share] of here.top[place]) {
    const item = element("li", text === (truth === " " ? "space" : truth) ? { class: "right" } : {});
    const bar = element("span", { class: "share" });
    bar.style.width = `${100 * share}%`;
    const track = element("span", { class: "track" });
    track.append(bar);
    item.append(element("code", {}, text), track, element("span", {}, `${(100 * share).toFixed(1)} %`));
    list.append(item);
  }
  box.append(list);
  byId("predictions").replaceChildren(box);
}

function startPassage() {
  const point = (event) => {
    const span = event.target.closest(".passage span");
    if (span) predict(span);
  };
  section.addEventListener("pointerover", point);
  section.addEventListener("click", point);
  listAgainst();
  if (byId("against")) {
    byId("against").addEventListener("change", (event) => {
      against = event.target.value === "" ? null : Number(event.target.value);
      paint();
    });
  }
}

function startTabs() {
  for (const part of [section, byId("samples")]) {
    for (const button of part.querySelectorAll(".tabs button")) {
      button.addEventListener("click", () => {
        for (const other of part.querySelectorAll(".tabs button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        for (const panel of part.querySelectorAll(".panel")) {
          panel.hidden = panel.dataset.run !== button.dataset.run;
        }
        if (part === section) {
          current = Number(button.dataset.run);
          listAgainst();
          paint();
        }
      });
    }
  }
}

function startSettings() {
  const tick = byId("only-marked"), part = byId("settings");
  const apply = () => part.classList.toggle("only-marked", tick.checked);
  tick.addEventListener("change", apply);
  apply();
}

function startTheme() {
  const kept = () => { try { return localStorage.getItem("charjax-theme"); } catch { return null; } };
  const chosen = kept() && byId(kept());
  if (chosen) chosen.checked = true;
  for (const radio of document.querySelectorAll("input[name=theme]")) {
    radio.addEventListener("change", () => {
      try { localStorage.setItem("charjax-theme", radio.id); } catch { /* A page without storage. */ }
      draw();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

startTheme();
startCharts();
startTabs();
startPassage();
startSettings();
})();
