// The data of the page, and what its other scripts share.
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
