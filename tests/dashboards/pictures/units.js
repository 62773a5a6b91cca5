"use strict";
// Figures as Grafana writes them: three digits that mean something, unless the panel says otherwise.

const SIZES = ["", "Ki", "Mi", "Gi", "Ti"];
const COUNTS = ["", "K", "M", "B", "T"];
const LONG_COUNTS = ["", " K", " Mil", " Bil", " Tri"];
const DURATIONS = [
  [1e-6, 1e-9, " ns"], [1e-3, 1e-6, " µs"], [1, 1e-3, " ms"], [60, 1, " s"],
  [3600, 60, " mins"], [86400, 3600, " hours"], [604800, 86400, " days"], [Infinity, 604800, " weeks"],
];

function rounded(value, decimals) {
  if (decimals !== null) return value.toFixed(decimals);
  if (value % 1 === 0) return String(value);
  const wanted = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(wanted, 20));
}

function scaled(value, base, names, decimals, suffix) {
  let power = 0;
  while (Math.abs(value) >= base && power < names.length - 1) {
    value /= base;
    power += 1;
  }
  return rounded(value, decimals) + names[power] + suffix;
}

function seconds(value, decimals) {
  if (value === 0) return rounded(0, decimals) + " s";
  const [, unit, name] = DURATIONS.find(([limit]) => Math.abs(value) < limit);
  return rounded(value / unit, decimals) + name;
}

const UNITS = {
  none: (value, decimals) => rounded(value, decimals),
  short: (value, decimals) => scaled(value, 1000, LONG_COUNTS, decimals, ""),
  percentunit: (value, decimals) => rounded(100 * value, decimals) + "%",
  s: seconds,
  reqps: (value, decimals) => scaled(value, 1000, COUNTS, decimals, " req/s"),
  cps: (value, decimals) => scaled(value, 1000, COUNTS, decimals, " c/s"),
  bytes: (value, decimals) => scaled(value, 1024, SIZES.map((size) => " " + size), decimals, "B"),
  binBps: (value, decimals) => scaled(value, 1024, SIZES.map((size) => " " + size), decimals, "B/s"),
};

/** A figure as text; `decimals` is null where the panel says nothing. */
function format(unit, value, decimals = null) {
  if (!(unit in UNITS)) throw new Error(`no unit ${unit}`);
  return UNITS[unit](value, decimals);
}

/** Marks of an axis, at steps that people count in, around all values. */
function ticks(lowest, highest, unit) {
  const base = unit === "bytes" || unit === "binBps" ? 2 : 10;
  if (highest === lowest) highest = lowest + (Math.abs(lowest) || 1);
  const span = highest - lowest;
  const rough = span / 4;
  const power = base ** Math.floor(Math.log(rough) / Math.log(base) + 1e-9);
  const steps = base === 2 ? [1, 2] : [1, 2, 2.5, 5, 10];
  const step = power * steps.find((one) => one * power >= rough * 0.999);
  const from = Math.floor(lowest / step + 1e-9) * step;
  const to = Math.max(Math.ceil(highest / step - 1e-9) * step, from + step);
  return { step, from, to };
}
