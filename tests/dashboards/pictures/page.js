"use strict";
// Draws a dashboard from its panels and what was answered to them, in Grafana's grid of 24 columns.

const COLUMN_GAP = 8, ROW_HEIGHT = 30, HEADER = 64;

// Grafana's colours by name, as its themes show them.
const NAMED = {
  dark: {
    green: "#73BF69", "semi-dark-green": "#56A64B", "dark-green": "#37872D", "light-green": "#96D98D",
    yellow: "#FADE2A", "semi-dark-yellow": "#F2CC0C", "dark-yellow": "#E0B400", "light-yellow": "#FFEE52",
    red: "#F2495C", "semi-dark-red": "#E02F44", "dark-red": "#C4162A", "light-red": "#FF7383",
    blue: "#5794F2", "semi-dark-blue": "#3274D9", "dark-blue": "#1F60C4", "light-blue": "#8AB8FF",
    orange: "#FF9830", "semi-dark-orange": "#FF780A", "dark-orange": "#FA6400", "light-orange": "#FFB357",
    purple: "#B877D9", "semi-dark-purple": "#A352CC", "dark-purple": "#8F3BB8", "light-purple": "#CA95E5",
    "super-light-blue": "#C0D8FF", "super-light-purple": "#DEB6F2", text: "#ccccdc",
  },
  light: {
    green: "#56A64B", "semi-dark-green": "#37872D", "dark-green": "#19730E", "light-green": "#73BF69",
    yellow: "#F2CC0C", "semi-dark-yellow": "#E0B400", "dark-yellow": "#CC9D00", "light-yellow": "#FADE2A",
    red: "#E02F44", "semi-dark-red": "#C4162A", "dark-red": "#AD0317", "light-red": "#F2495C",
    blue: "#3274D9", "semi-dark-blue": "#1F60C4", "dark-blue": "#1250B0", "light-blue": "#5794F2",
    orange: "#FF780A", "semi-dark-orange": "#FA6400", "dark-orange": "#E55400", "light-orange": "#FF9830",
    purple: "#A352CC", "semi-dark-purple": "#8F3BB8", "dark-purple": "#7C2EA3", "light-purple": "#B877D9",
    "super-light-blue": "#8AB8FF", "super-light-purple": "#CA95E5", text: "#24292e",
  },
};
// Those of the scheme `palette-classic`, in their order.
const CLASSIC = [
  "green", "semi-dark-yellow", "light-blue", "semi-dark-orange", "red", "blue", "purple", "#705DA0",
  "dark-green", "yellow", "#447EBC", "#C15C17", "#890F02", "#0A437C", "#6D1F62", "#584477", "#B7DBAB",
  "#F4D598", "#70DBED", "#F9BA8F", "#F29191", "#82B5D8", "#E5A8E2", "#AEA2E0", "#629E51", "#E5AC0E",
  "#64B0C8", "#E0752D", "#BF1B00", "#0A50A1", "#962D82", "#614D93", "#9AC48A", "#F2C96D", "#65C5DB",
  "#F9934E", "#EA6460", "#5195CE", "#D683CE", "#806EB7", "#3F6833", "#967302", "#2F575E", "#99440A",
  "#58140C", "#052B51", "#511749", "#3F2B5B", "#E0F9D7", "#FCEACA", "#CFFAFF", "#F9E2D2", "#FCE2DE",
  "#BADFF4", "#F9D9F9", "#DEDAF7",
];

const board = JSON.parse(document.getElementById("data").textContent);
const theme = document.body.className;
const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const font = () => getComputedStyle(document.body).fontFamily;
const colour = (name) => NAMED[theme][name] || name;

function element(parent, tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return parent.appendChild(made);
}

/** What the panel's overrides and defaults say of the field of this name. */
function field(panel, name) {
  const said = structuredClone(panel.fieldConfig.defaults);
  for (const { matcher, properties } of panel.fieldConfig.overrides || []) {
    const fits = matcher.id === "byName" ? matcher.options === name
      : matcher.id === "byRegexp" && new RegExp(matcher.options.replace(/^\/|\/$/g, "")).test(name);
    if (fits) for (const { id, value } of properties) said[id.replace("custom.", "")] = value;
  }
  return said;
}

function seriesColour(panel, name, number) {
  const said = field(panel, name).color;
  return colour(said.mode === "fixed" ? said.fixedColor : CLASSIC[number % CLASSIC.length]);
}

function threshold(steps, value) {
  let found = steps[0];
  for (const step of steps) if (step.value === null || value >= step.value) found = step;
  return colour(found.color);
}

const chart = (where) => echarts.init(where, null, { renderer: "canvas" });

/** The value at the end of each series, and the course of the first one. */
function drawStat(panel, body) {
  const { unit, decimals = null } = panel.fieldConfig.defaults;
  const ended = panel.series.flatMap(({ name, points }) => {
    const known = points.filter(([, value]) => value !== null);
    if (known.length === 0) return [];
    const last = known.at(-1)[1];
    return [{ name, text: format(unit, last, decimals), shown: threshold(field(panel, name).thresholds.steps, last) }];
  });
  const figures = element(body, "div", "figures");
  const several = ended.length > 1;
  const length = ended.reduce((sum, { name, text }) => sum + text.length + (several ? name.length + 2 : 0), 0);
  for (const { name, text, shown } of ended) {
    const figure = element(figures, "div", "figure", several ? `${name} ${text}` : text);
    figure.style.color = shown;
    figure.style.fontSize = `${Math.min(42, body.clientWidth / (0.62 * length))}px`;
  }
  const [series] = panel.series;
  const [{ shown }] = ended;
  chart(element(body, "div", "course")).setOption({
    animation: false,
    grid: { left: 0, right: 0, top: 2, bottom: 0 },
    xAxis: { type: "time", show: false, min: board.from, max: board.to },
    yAxis: { type: "value", show: false, scale: true },
    series: [{
      type: "line", data: series.points, symbol: "none", lineStyle: { width: 1, color: shown },
      areaStyle: { color: shown, opacity: 0.15, origin: "start" },
    }],
  });
}

/** Vertical marks, and areas where something lasted, as annotations are shown. */
function marks() {
  const lines = [], areas = [];
  for (const { color, spans } of board.annotations) {
    const drawn = colour(color);
    for (const [from, to] of spans) {
      lines.push({ xAxis: from, lineStyle: { color: drawn, type: "dashed", width: 1 } });
      if (to > from) areas.push([{ xAxis: from, itemStyle: { color: drawn, opacity: 0.15 } }, { xAxis: to }]);
    }
  }
  return {
    markLine: { symbol: "none", label: { show: false }, data: lines, animation: false, silent: true },
    markArea: { data: areas, animation: false, silent: true },
  };
}

function drawChart(panel, body) {
  const { unit, decimals = null, custom } = panel.fieldConfig.defaults;
  const stacked = custom.stacking && custom.stacking.mode === "normal";
  const legend = element(body.parentElement, "div", "legend");
  const colours = panel.series.map(({ name }, number) => seriesColour(panel, name, number));
  panel.series.forEach(({ name }, number) => {
    const entry = element(legend, "span");
    element(entry, "i").style.background = colours[number];
    entry.append(name);
  });
  const known = panel.series.flatMap(({ points }) => points.map(([, value]) => value)).filter((value) => value !== null);
  const sums = panel.series[0].points.map((_, at) => panel.series.reduce((sum, { points }) => sum + points[at][1], 0));
  const highest = Math.max(...(stacked ? sums : known), custom.axisSoftMax ?? -Infinity);
  const lowest = Math.min(...known, custom.axisSoftMin ?? Infinity);
  const { from, to, step } = ticks(lowest, highest, unit);
  const weak = css("--weak");
  chart(body).setOption({
    animation: false,
    textStyle: { fontFamily: font() },
    grid: { left: 8, right: 12, top: 8, bottom: 4, containLabel: true },
    xAxis: {
      type: "time", min: board.from, max: board.to, splitNumber: Math.max(2, Math.round(body.clientWidth / 90)),
      axisLabel: { color: weak, fontSize: 11, hideOverlap: true, formatter: (at) => new Date(at).toISOString().slice(11, 16) },
      minInterval: 60000, axisLine: { show: false }, axisTick: { show: false },
      splitLine: { show: true, lineStyle: { color: css("--line") } },
    },
    yAxis: {
      type: "value", min: from, max: to, interval: step,
      axisLabel: {
        color: weak, fontSize: 11,
        formatter: (value) => format(unit, Number(value.toPrecision(12)), decimals).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, ""),
      },
      splitLine: { lineStyle: { color: css("--line") } },
    },
    series: [
      ...panel.series.map((series, number) => ({
        type: "line", symbol: "none", step: custom.lineInterpolation === "stepAfter" ? "end" : false,
        data: series.points,
        stack: stacked ? "all" : undefined,
        lineStyle: { width: 1.25, color: colours[number] },
        areaStyle: { color: colours[number], opacity: custom.fillOpacity / 100 },
        ...(number === 0 ? marks() : {}),
      })),
      { type: "scatter", symbol: "diamond", symbolSize: 5,
        // Those beyond the axis are shown at its end.
        data: panel.exemplars.map(([at, value]) => [at, Math.min(value, to)]), itemStyle: { color: colour("yellow"), borderColor: css("--panel"), borderWidth: 0.5 } },
    ],
  });
}

function drawTable(panel, body) {
  const { columns, rows } = panel.table;
  const table = element(body, "table");
  const head = element(table, "tr");
  const said = columns.map((name) => field(panel, name));
  columns.forEach((name, at) => element(head, "th", said[at].align === "right" ? "right" : "", name));
  const [sort] = panel.options.sortBy;
  const by = columns.indexOf(sort.displayName);
  rows.sort((one, other) => (sort.desc ? other[by] - one[by] : one[by] - other[by]));
  for (const row of rows) {
    const line = element(table, "tr");
    row.forEach((value, at) => {
      const { unit, decimals = null, thresholds, cellOptions, links, align } = said[at];
      const cell = element(line, "td", align === "right" ? "right" : "");
      if (value === null) return;
      if (typeof value === "string") {
        element(cell, links ? "a" : "span", "", value);
        return;
      }
      cell.textContent = format(unit, value, decimals);
      if (cellOptions && cellOptions.type === "color-text") cell.style.color = threshold(thresholds.steps, value);
    });
  }
}

/** Places from left to right: callers first, each one left of what it calls. */
function places(nodes, edges) {
  const level = Object.fromEntries(nodes.map(({ id }) => [id, 0]));
  for (let round = 0; round < nodes.length; round += 1) {
    for (const { source, target } of edges) {
      if (source !== target && level[target] <= level[source] && level[source] + 1 < nodes.length) level[target] = level[source] + 1;
    }
  }
  const levels = Map.groupBy(nodes, ({ id }) => level[id]);
  const wide = levels.size;
  const placed = {};
  [...levels.keys()].sort((one, other) => one - other).forEach((key, column) => {
    const here = levels.get(key);
    here.forEach(({ id }, at) => {
      placed[id] = [(column + 0.5) / wide, (at + 0.5 + (column % 2 && here.length === 1 ? 0.08 : 0)) / here.length];
    });
  });
  return placed;
}

function drawGraph(panel, body) {
  const { nodes, edges } = panel.graph;
  const at = places(nodes, edges);
  const [width, height] = [body.clientWidth, body.clientHeight];
  const label = { fontSize: 11, color: css("--text"), fontFamily: font() };
  chart(body).setOption({
    animation: false,
    series: [{
      type: "graph", layout: "none", symbolSize: 54, left: 40, right: 40, top: 34, bottom: 52,
      edgeSymbol: ["none", "arrow"], edgeSymbolSize: 8,
      data: [
        ...nodes.map(({ id, title }) => ({
          name: id, x: at[id][0] * width, y: at[id][1] * height,
          itemStyle: { color: css("--panel"), borderColor: colour("blue"), borderWidth: 2 },
          label: { ...label, show: true, position: "bottom", fontSize: 12, formatter: title },
        })),
        // What stands in a circle: a node of echarts has one label only.
        ...nodes.map(({ id, mainstat }) => ({
          name: `in ${id}`, x: at[id][0] * width, y: at[id][1] * height, symbolSize: 1,
          label: { ...label, show: true, position: "inside", lineHeight: 13, formatter: format(panel.options.nodes.mainStatUnit, mainstat).replace(" ", "\n") },
        })),
      ],
      links: edges.map(({ source, target, mainstat }) => ({
        source, target,
        lineStyle: { color: css("--weak"), width: 1.2, opacity: 0.8, curveness: 0.14 },
        label: {
          ...label, show: true, color: css("--weak"), fontSize: 10.5, textBorderColor: css("--panel"), textBorderWidth: 3,
          formatter: format(panel.options.edges.mainStatUnit, mainstat),
        },
      })),
    }],
  });
}

const KINDS = {
  stat: [drawStat, (panel) => panel.series.some(({ points }) => points.some(([, value]) => value !== null))],
  timeseries: [drawChart, (panel) => panel.series.length > 0],
  table: [drawTable, (panel) => panel.table.rows.length > 0],
  nodeGraph: [drawGraph, (panel) => panel.graph.nodes.length > 0],
};

function place(made, { x, y, w, h }) {
  const column = (document.body.clientWidth - 2 * 16 + COLUMN_GAP) / 24;
  made.style.left = `${16 + x * column}px`;
  made.style.width = `${w * column - COLUMN_GAP}px`;
  made.style.top = `${HEADER + y * (ROW_HEIGHT + COLUMN_GAP)}px`;
  made.style.height = `${h * (ROW_HEIGHT + COLUMN_GAP) - COLUMN_GAP}px`;
}

function drawPanel(panel) {
  if (panel.type === "row") {
    place(element(document.body, "div", "row", `⌄ ${panel.title}`), panel.gridPos);
    return;
  }
  const [draw, hasData] = KINDS[panel.type];
  const made = element(document.body, "section", "panel");
  made.dataset.title = panel.title;
  place(made, panel.gridPos);
  element(made, "div", "title", panel.title);
  const body = element(made, "div", "body");
  if (hasData(panel)) {
    draw(panel, body);
    return;
  }
  made.classList.add("empty");
  body.textContent = panel.fieldConfig.defaults.noValue;
}

function drawHeader() {
  const header = element(document.body, "header");
  const left = element(header, "div");
  element(left, "h1", "", board.title);
  element(left, "div", "what", "The dashboard's queries over data of a running mesh, drawn by a script: not Grafana itself.");
  const chosen = element(header, "div", "chosen");
  for (const [name, value] of board.chosen) {
    chosen.append(`${name} `);
    element(chosen, "b", "", value);
    chosen.append("   ");
  }
}

drawHeader();
board.panels.forEach(drawPanel);
// Whoever takes the picture looks for this: an error before would have kept it away.
document.body.dataset.drawn = String(board.panels.length);
