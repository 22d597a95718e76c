// The legend above the curves: one row for each run, with its values at the cursor.

const hasAverages = RUNS.some((run) => run.curves.val_trained.step.length);

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
  const cells = Array.from({ length: hasAverages ? 8 : 7 }, () => row.appendChild(element("td")));
  byId("legend").tBodies[0].append(row);
  return cells;
});

function showValues(x) {
  RUNS.forEach((run, place) => {
    const { train, val, val_trained: trained } = run.curves;
    const at = nearest(train.step, x), there = nearest(val.step, x);
    const step = train.step.length ? train.step[at] : val.step[there];
    const loss = val.loss.mean[there];
    const texts = [
      isNumber(step) ? step.toLocaleString("en") : "–",
      short(train.loss.mean[at]),
      short(loss) + (val.step[there] === step || !isNumber(loss) ? "" : ` (${val.step[there].toLocaleString("en")})`),
      short(isNumber(loss) ? loss / LN2 : null),
      ...(hasAverages ? [short(trained.loss.mean[nearest(trained.step, x)])] : []),
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
  const run = RUNS[place], { train, val, val_trained: trained } = run.curves;
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
  if (chart.key === "loss" && trained.step.length) {
    tables.push([trained.step, trained.loss.mean]);
    lines.push({ stroke, width: 1.5, dash: [2, 3], points: { show: trained.step.length < 3, size: 4, stroke } });
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
