// The curves: the loss of every step, the figures of every epoch, and what the user logged.

import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Chart } from "./chart.js";
import { isDark, pens } from "./colours.js";
import { exported } from "./offline.js";
import { address, change } from "./route.js";
import { ask, logs, readCurves, refreshLogs, state } from "./store.js";
import { duration, figure, metric, say, whole } from "./words.js";

const SMOOTHINGS = [0, 5, 20, 100, 500, 2000]; // half-lives in steps
const USUAL_SMOOTHING = 20;
const LONG = 500; // steps from which a run is smoothed unless the user says otherwise
const FEW = 32; // runs; of more, every extreme is drawn in columns of two pixels, which takes half the time
const SAID_RUNS = 6; // in a readout
const TABLE_ROWS = 500;

/** @typedef {import("./store.js").Row} Row @typedef {import("./store.js").RunCurve} RunCurve @typedef {import("./colours.js").Pen} Pen */
/** @typedef {{axis: string, smooth: number, logX: boolean, logY: boolean, zoom: [number, number] | null, isGrouped: boolean}} Look */

/** Return how the curves are drawn, from the address. @param {import("./route.js").Route} route @param {Row[]} runs @returns {Look} */
function lookOf(route, runs) {
  const usual = runs.some((row) => (row.steps ?? 0) >= LONG) ? USUAL_SMOOTHING : 0;
  const low = parseFloat(route.get("low"));
  const high = parseFloat(route.get("high"));
  const axis = route.get("x");
  return {
    axis: axis === "epoch" || axis === "time" ? axis : "step",
    smooth: route.get("smooth") === "" ? usual : Math.max(0, parseFloat(route.get("smooth")) || 0),
    logX: route.get("logx") === "1",
    logY: route.get("logy") === "1",
    zoom: low < high ? [low, high] : null,
    isGrouped: route.get("group") === "1" && axis !== "time" && runs.length > 1,
  };
}

/** @param {{route: import("./route.js").Route}} props */
export function CurvesView({ route }) {
  const newest = [...state.rows.values()].filter((row) => row.status !== "damaged").sort((a, b) => b.started - a.started).slice(0, 1);
  const chosen = route.runs.flatMap((id) => state.rows.get(id) ?? []);
  const runs = chosen.length ? chosen : newest;
  const look = lookOf(route, runs);
  const [columns, setColumns] = useState(0);
  const curves = useCurves(runs, look, runs.length > FEW ? Math.ceil(columns / 2) : columns);
  const isNew = useLogs(runs);
  const groups = useGroups(runs, look.isGrouped);
  const colours = pens(runs, isDark());
  for (const [first, ...others] of groups) for (const id of others) colours.set(id, /** @type {Pen} */ (colours.get(first)));
  if (!state.isLoaded) return html`<p class="empty">${say("loading")}</p>`;
  if (!runs.length) return html`<p class="empty">${say("no-runs")}</p>`;
  const full = fullRange(curves.found, runs, look);
  const range = look.zoom ?? full;
  const common = {
    groups, range, logX: look.logX, logY: look.logY, xName: look.axis, formatX: axisFormat(look.axis),
    onZoom: (/** @type {[number, number] | null} */ zoom) => change({ low: zoom && round(zoom[0]), high: zoom && round(zoom[1]) }),
  };
  const names = figureNames(runs);
  return html`<${Controls} look=${look} route=${route} />
    <${Legend} runs=${runs} colours=${colours} />
    ${runs.some((row) => row.status !== "tensorboard") && html`<${LossChart} key="loss" ...${{ runs, look, colours, common, curves, onWidth: setColumns }} />`}
    ${names.map((name) => html`<${InView} key=${name} name=${name}>${() => html`<${FigureChart} ...${{ name, runs, look, colours, common, curves: curves.found, isNew }} />`}<//>`)}`;
}

/** Read which runs differ in their seeds alone: lists of ids, of two or more. @param {Row[]} runs @param {boolean} isGrouped @returns {string[][]} */
function useGroups(runs, isGrouped) {
  const [groups, setGroups] = useState(/** @type {string[][]} */ ([]));
  const key = isGrouped ? runs.map((row) => `run=${row.id}`).join("&") : "";
  useEffect(() => {
    let isHere = true;
    if (!key) setGroups([]);
    else ask(`/api/recipes?${key}`).then((found) => isHere && setGroups(found.alike.filter((/** @type {string[]} */ ids) => ids.length > 1)), () => undefined);
    return () => void (isHere = false);
  }, [key]);
  return groups;
}

/**
 * Return lines in which those of a group have become one, their mean, and two edges: the lowest and the highest.
 * Where not every run of the group has a value there is none. @param {any[]} lines each with an `id` @param {string[][]} groups
 */
function grouped(lines, groups) {
  const single = lines.filter(({ id }) => !groups.some((ids) => ids.includes(id)));
  const joined = groups.flatMap((ids) => {
    const own = lines.filter(({ id }) => ids.includes(id));
    if (!own.length) return [];
    const over = (/** @type {(values: number[]) => number} */ of, /** @type {string} */ key) =>
      own[0].values.map((/** @type {unknown} */ _, /** @type {number} */ index) => {
        const values = own.map((line) => (line[key] ?? line.values)[index]);
        return values.every((value) => typeof value === "number") ? of(values) : values.some((value) => value === null) ? null : undefined;
      });
    const look = { name: say("mean-of", { count: own.length, name: own[0].name }), colour: own[0].colour, dash: [] };
    const mean = over((values) => values.reduce((sum, value) => sum + value, 0) / values.length, "values");
    return [{ ...look, values: over((values) => Math.max(...values), "all"), isEdge: true }, { ...look, values: over((values) => Math.min(...values), "all"), isEdge: true }, { ...look, values: mean, isSmooth: true }];
  });
  return [...joined, ...single];
}

/** Digits that tell two pixels apart, and no more. @param {number} value */
const round = (value) => Number(value.toPrecision(9));

/** @param {string} axis */
const axisFormat = (axis) => (axis === "time" ? duration : (/** @type {number} */ x) => (Number.isInteger(x) ? whole(x) : figure(x)));

/** Read the curves whenever the view changes, and every second while one of the runs trains. @param {Row[]} runs @param {Look} look @param {number} columns */
function useCurves(runs, look, columns) {
  const [curves, setCurves] = useState({ found: /** @type {import("./store.js").Curves | null} */ (null), key: "" });
  const [low, high] = look.zoom ?? ["", ""];
  const view = { x: 0, axis: look.axis, low, high, columns, smooth: look.smooth, log: look.logX ? 1 : 0, logy: look.logY ? 1 : 0 };
  const ids = runs.map((row) => row.id);
  const key = JSON.stringify([ids, view]);
  const isLive = runs.some((row) => row.status === "running");
  const since = runs.map((row) => `${row.status}${row.steps}-${row.bytes}`).join();
  const asked = useRef({ key: "", isLate: false, stop: new AbortController() }); // the request under way; without one the key is ""
  const [late, setLate] = useState(0);
  useEffect(() => {
    if (!columns || !ids.length) return;
    if (asked.current.key === key) {
      asked.current.isLate = true; // one that takes long is waited for, and then asked again
      return;
    }
    asked.current.stop.abort();
    const mine = (asked.current = { key, isLate: false, stop: new AbortController() });
    const given = Object.fromEntries(Object.entries(view).filter(([, value]) => value !== ""));
    readCurves(ids, given, mine.stop.signal)
      .then((found) => setCurves({ found, key }), () => undefined)
      .finally(() => {
        mine.key = "";
        if (mine.isLate) setLate((count) => count + 1);
      });
  }, [key, isLive ? state.ticks : 0, since, late]);
  useEffect(() => () => asked.current.stop.abort(), []);
  return { found: curves.found, isStale: curves.key !== key };
}

/** Read what the logs of the runs have new. @param {Row[]} runs */
function useLogs(runs) {
  const [count, setCount] = useState(0);
  const ids = runs.map((row) => row.id);
  const since = runs.map((row) => `${row.id}${row.status}${row.steps}${row.bytes}`).join();
  const isLive = runs.some((row) => row.status === "running");
  useEffect(() => {
    let isHere = true;
    refreshLogs(ids).then((isNew) => isHere && isNew && setCount((before) => before + 1), () => undefined);
    return () => void (isHere = false);
  }, [since, isLive ? state.ticks : 0]);
  return count;
}

/** @param {import("./store.js").Curves | null} curves @param {Row[]} runs @param {Look} look @returns {[number, number]} */
function fullRange(curves, runs, look) {
  let [low, high] = curves && !look.zoom ? [curves.low, curves.high] : [Infinity, -Infinity];
  for (const row of runs) {
    const known = curves?.runs.find((run) => run.id === row.id);
    for (const line of linesOf(row)) {
      const x = placeOf(line, look.axis, known?.knots);
      if (x !== null) [low, high] = [Math.min(low, x), Math.max(high, x)];
    }
  }
  if (!(low <= high)) return [0, 1];
  if (!look.logX && look.axis !== "step") low = 0;
  return low < high ? [low, high] : [Math.max(0, low - 0.5), high + 0.5];
}

/** Where a line of the log stands on the axis. @param {import("./store.js").Line} line @param {string} axis @param {number[][] | null | undefined} knots @returns {number | null} */
function placeOf(line, axis, knots) {
  const step = typeof line.step === "number" ? line.step : null;
  if (axis === "epoch") return typeof line.epoch === "number" ? line.epoch : null;
  if (axis === "step" || step === null) return step;
  if (!knots?.[0]?.length) return null;
  const [steps, places] = knots;
  let after = steps.findIndex((one) => one >= step);
  if (after < 0) after = steps.length - 1;
  if (steps[after] <= step || after === 0) return places[after];
  const share = (step - steps[after - 1]) / (steps[after] - steps[after - 1]);
  return places[after - 1] + share * (places[after] - places[after - 1]);
}

// ── the loss of every step ────────────────────────────────────────────────────────────────────────────────

/** @param {any} props */
function LossChart({ runs, look, colours, common, curves, onWidth }) {
  const { groups } = common;
  const found = /** @type {import("./store.js").Curves | null} */ (curves.found);
  const kept = useRef(/** @type {{of: any, look: string, x: number[], lines: any[], marks: any[]}} */ ({ of: null, look: "", x: [], lines: [], marks: [] }));
  const drawn = JSON.stringify([look.logY, [...colours], groups]);
  if (kept.current.of !== found || kept.current.look !== drawn) kept.current = { of: found, look: drawn, ...drawing(found, runs, look, colours, groups) };
  const { x, lines, marks } = kept.current;
  const names = new Map(runs.map((/** @type {Row} */ row) => [row.id, row.name]));
  const readout = (/** @type {number} */ index) => (found ? lossReadout(found, index, names, look) : "");
  const rows = () => [
    [say("run"), say("steps"), say("first"), say("last"), say("lowest"), say("at-step"), say("highest"), say("at-step"), "NaN", say("infinite")],
    ...(found?.runs ?? []).map((run) => [
      String(names.get(run.id)), whole(run.count), figure(run.first), figure(run.last), figure(run.low), run.low_step ? whole(run.low_step) : "–",
      figure(run.high), run.high_step ? whole(run.high_step) : "–", whole(run.nan), whole(run.up + run.down),
    ]),
  ];
  const below = exported ? [] : runs.map((/** @type {Row} */ row) => html`<a href=${`/api/runs/${row.id}/losses.csv`} download=${`${row.name}.csv`}>${say("save-losses", { name: row.name })}</a>`);
  return html`<${Chart} ...${common} title=${say("loss-of-steps")} sentence=${found ? [lossSentence(found, names, look), ...(groups.length ? [say("grouped-about")] : [])].join(say("between-sentences")) : say("loading")}
    x=${x} lines=${lines} marks=${marks} formatY=${figure} readout=${readout} rows=${rows} below=${below} onWidth=${onWidth}
    isStale=${curves.isStale} />`;
}

/** @param {import("./store.js").Curves | null} found @param {Row[]} runs @param {Look} look @param {Map<string, Pen>} colours @param {string[][]} groups */
function drawing(found, runs, look, colours, groups) {
  /** @type {any[]} */
  const lines = [];
  /** @type {any[]} */
  const marks = [];
  if (!found) return { x: [], lines, marks };
  const bad = getComputedStyle(document.documentElement).getPropertyValue("--bad").trim();
  for (const run of found.runs) {
    const pen = colours.get(run.id) ?? { colour: bad, dash: [] };
    const name = runs.find((row) => row.id === run.id)?.name ?? run.id;
    const gaps = new Set(run.marks.filter(([, nan, up, down]) => nan + up + down).map(([cell]) => cell));
    // what a log axis cannot show: a gap where steps are drawn one by one; in a pixel column the other values stay, with a mark
    const hidden = found.slots === 1 ? null : undefined;
    const values = (/** @type {Float32Array} */ given) =>
      Array.from(given, (value, index) =>
        Number.isNaN(value) ? (gaps.has(Math.floor(index / found.slots)) ? null : undefined) : look.logY && value <= 0 ? hidden : value,
      );
    if (groups.some((ids) => ids.includes(run.id))) lines.push({ id: run.id, name, ...pen, values: values(run.smooth ?? run.raw), all: values(run.raw) });
    else lines.push({ name, ...pen, values: values(run.raw), faint: run.smooth !== null }, ...(run.smooth ? [{ name, ...pen, values: values(run.smooth), isSmooth: true }] : []));
    for (const [cell, nan, up, down, under = 0] of run.marks) {
      const x = found.x[cell * found.slots] / 2 + found.x[cell * found.slots + found.slots - 1] / 2;
      if (nan + up) marks.push({ x, isLow: false, colour: bad });
      if (down || (look.logY && under)) marks.push({ x, isLow: true, colour: bad });
    }
  }
  // the smoothed lines above all raw ones
  return { x: Array.from(found.x), lines: [...lines.filter((line) => line.faint), ...grouped(lines.filter((line) => !line.faint), groups)], marks };
}

/** @param {import("./store.js").Curves} found @param {Map<string, string>} names @param {Look} look */
function lossSentence(found, names, look) {
  const runs = found.runs.filter((run) => run.count);
  if (!runs.length) return say("no-steps");
  const sum = (/** @type {(run: RunCurve) => number} */ of) => runs.reduce((total, run) => total + of(run), 0);
  const best = runs.reduce((one, other) => ((other.low ?? Infinity) < (one.low ?? Infinity) ? other : one));
  const worst = runs.reduce((one, other) => ((other.high ?? -Infinity) > (one.high ?? -Infinity) ? other : one));
  const values = { steps: whole(sum((run) => run.count)), first: figure(runs[0].first), last: figure(runs[0].last), high: figure(worst.high), high_step: worst.high_step ? whole(worst.high_step) : "–", high_name: names.get(worst.id), low: figure(best.low), step: best.low_step ? whole(best.low_step) : "–", name: names.get(best.id) };
  const said = [runs.length === 1 ? say("loss-of-one", values) : say("loss-of-many", { ...values, count: runs.length })];
  const [nan, infinite, under] = [sum((run) => run.nan), sum((run) => run.up + run.down), sum((run) => run.under)];
  if (nan) said.push(say("nan-count", { count: nan }));
  if (infinite) said.push(say("infinite-count", { count: infinite }));
  if (look.logY && under) said.push(say("under-count", { count: under }));
  return said.join(say("between-sentences"));
}

/** @param {import("./store.js").Curves} found @param {number} index @param {Map<string, string>} names @param {Look} look */
function lossReadout(found, index, names, look) {
  const cell = Math.floor(index / found.slots);
  const [low, high] = [found.x[cell * found.slots], found.x[cell * found.slots + found.slots - 1]];
  const format = axisFormat(look.axis);
  const exact = found.slots === 1 ? format(low) : `${format(Math.ceil(low))}–${format(Math.floor(Math.max(high, Math.ceil(low))))}`;
  const place = look.axis === "step" ? exact : format(found.x[index]);
  const values = found.runs.flatMap((run) => {
    const mark = run.marks.find(([one]) => one === cell);
    const bad = mark ? ["NaN", "+∞", "−∞"].flatMap((name, kind) => (mark[kind + 1] ? [`${name} ×${whole(mark[kind + 1])}`] : [])) : [];
    const [bottom, top] = found.slots === 1 ? [run.raw[cell], run.raw[cell]] : [run.raw[cell * 4 + 1], run.raw[cell * 4 + 2]];
    if (Number.isNaN(bottom) && !bad.length) return [];
    const extremes = Number.isNaN(bottom) ? "" : bottom === top ? figure(bottom) : `${figure(bottom)} … ${figure(top)}`;
    const smooth = run.smooth && !Number.isNaN(run.smooth[index]) ? `(${say("smoothed")} ${figure(run.smooth[index])})` : "";
    return [[found.runs.length > 1 ? names.get(run.id) : "", extremes, smooth, ...bad].filter(Boolean).join(" ")];
  });
  return [`${say(`axis-${look.axis}`)} ${place}`, ...values.slice(0, SAID_RUNS), ...(values.length > SAID_RUNS ? [say("and-more", { count: values.length - SAID_RUNS })] : [])].join(" · ");
}

// ── figures of epochs, and logged values ──────────────────────────────────────────────────────────────────

const SPLITS = ["validation", "test"];

/** The numbers in a line of the log, by name. @param {import("./store.js").Line} line @returns {Record<string, unknown>} */
function numbersIn(line) {
  if (line.kind !== "epoch") {
    const own = Object.entries(typeof line.values === "object" && line.values ? line.values : {});
    return Object.fromEntries(own.filter(([, value]) => typeof value === "number" || value === null).map(([name, value]) => [name.startsWith("machine/") ? name.replace("/", " ") : `log ${name}`, value]));
  }
  /** @type {Record<string, unknown>} */
  const found = { train_loss: line.train_loss };
  for (const split of SPLITS) {
    for (const [name, value] of Object.entries(line[split] ?? {})) if (name !== "n") found[`${split} ${name}`] = value;
  }
  return { ...found, learning_rate: line.learning_rate, seconds: line.seconds };
}

/** @param {Row} row */
const linesOf = (row) => {
  const log = logs.get(row.id);
  return log ? [...log.history.filter((line) => line.kind === "epoch"), ...log.values, ...log.machine] : [];
};

/** The names of all figures of some runs, in the order in which they are first met. @param {Row[]} runs */
function figureNames(runs) {
  const names = new Set();
  for (const row of runs) for (const line of linesOf(row)) for (const name of Object.keys(numbersIn(line))) names.add(name);
  const order = ["train_loss", "validation", "test", "log", "learning_rate", "seconds", "machine"];
  const rank = (/** @type {string} */ name) => order.findIndex((one) => name.startsWith(one));
  return [...names].sort((a, b) => rank(a) - rank(b));
}

/** @param {string} name */
export function nameOf(name) {
  const [split, ...rest] = name.split(" ");
  if (split === "log") return rest.join(" ");
  if (split === "machine") return say(`machine-${rest.join(" ")}`);
  if (!rest.length) return say(`figure-${split.replaceAll("_", "-")}`);
  return say("figure-of-split", { split: say(`split-${split}`), name: say(`figure-${rest[0]}`) === `figure-${rest[0]}` ? rest.join(" ") : say(`figure-${rest[0]}`) });
}

/** @param {any} props */
function FigureChart({ name, runs, look, colours, common, curves, isNew }) {
  const kept = useRef(/** @type {any} */ ({ key: "" }));
  const key = JSON.stringify([common.groups, isNew, look.axis, look.logY, [...colours], curves?.runs.map((/** @type {RunCurve} */ run) => run.knots?.[0].length), runs.length]);
  if (kept.current.key !== key) kept.current = { key, ...figureDrawing(name, runs, look, colours, curves, common.groups) };
  const { x, lines, points, gaps, under } = kept.current;
  const best = points.reduce((/** @type {any} */ one, /** @type {any} */ other) => (!one || (isBetterHigh(name) ? other.y > one.y : other.y < one.y) ? other : one), null);
  const title = nameOf(name);
  const format = name.startsWith("log ") ? figure : (/** @type {number} */ y) => metric(name, y); // the unit of a value of the user is not known
  const values = best && { count: points.length, best: format(best.y), epoch: best.epoch ?? "–", name: best.name };
  const said = [best ? say(name === "learning_rate" || name === "seconds" || /^(log|machine) /.test(name) ? "figure-plain" : isBetterHigh(name) ? "figure-highest" : "figure-lowest", values) : say("no-figures")];
  if (gaps) said.push(say("not-a-number-count", { count: gaps }));
  if (under) said.push(say("under-values-count", { count: under }));
  const told = lines.filter((/** @type {any} */ line) => !line.isEdge);
  const readout = (/** @type {number} */ index) =>
    [`${say(`axis-${look.axis}`)} ${common.formatX(x[index])}`, ...told.flatMap((/** @type {any} */ line) => (line.values[index] == null ? [] : [`${runs.length > 1 ? `${line.name} ` : ""}${format(line.values[index])}`])).slice(0, SAID_RUNS)].join(" · ");
  const rows = () => [
    [say(`axis-${look.axis}`), ...told.map((/** @type {any} */ line) => line.name)],
    ...x.map((/** @type {number} */ place, /** @type {number} */ index) => [common.formatX(place), ...told.map((/** @type {any} */ line) => (line.values[index] === undefined ? "" : format(line.values[index])))]).slice(-TABLE_ROWS),
  ];
  return html`<${Chart} ...${common} title=${title} sentence=${said.join(say("between-sentences"))} x=${x} lines=${lines} formatY=${format}
    readout=${readout} rows=${rows} />`;
}

/** @param {string} name */
const isBetterHigh = (name) => /accuracy|r2|f1|precision|recall/.test(name);

/** @param {string} name @param {Row[]} runs @param {Look} look @param {Map<string, Pen>} colours @param {any} curves @param {string[][]} groups */
function figureDrawing(name, runs, look, colours, curves, groups) {
  /** @type {{x: number, y: number, epoch: unknown, name: string}[]} */
  const points = [];
  let [gaps, under] = [0, 0];
  const found = runs.map((row) => {
    const knots = curves?.runs.find((/** @type {RunCurve} */ run) => run.id === row.id)?.knots;
    /** @type {Map<number, number | null>} */
    const values = new Map();
    for (const line of linesOf(row)) {
      const numbers = numbersIn(line);
      const x = name in numbers ? placeOf(line, look.axis, knots) : null;
      if (x === null || (look.logX && x <= 0)) continue;
      const y = numbers[name];
      const isUnder = look.logY && typeof y === "number" && y <= 0;
      if (isUnder) under += 1;
      else if (typeof y === "number") points.push({ x, y, epoch: line.epoch, name: row.name });
      else if (y === null) gaps += 1;
      values.set(x, typeof y === "number" && !isUnder ? y : null);
    }
    return { row, values };
  });
  const x = [...new Set(found.flatMap(({ values }) => [...values.keys()]))].sort((a, b) => a - b);
  const lines = found
    .filter(({ values }) => values.size)
    .map(({ row, values }) => ({ id: row.id, name: row.name, ...(colours.get(row.id) ?? { colour: "#888", dash: [] }), values: x.map((place) => values.get(place)) }));
  return { x, lines: grouped(lines, groups), points, gaps, under };
}

// ── around the charts ─────────────────────────────────────────────────────────────────────────────────────

/** Make a chart only when it comes into view. @param {{name: string, children: () => any}} props */
function InView({ name, children }) {
  const [isSeen, setSeen] = useState(false);
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && setSeen(true), { rootMargin: "200px" });
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return html`<div ref=${box} class="in-view" data-figure=${name}>${isSeen && children()}</div>`;
}

/** @param {{look: Look, route: import("./route.js").Route}} props */
function Controls({ look, route }) {
  const choose = (/** @type {string} */ name) => (/** @type {Event} */ event) => change({ [name]: /** @type {HTMLSelectElement} */ (event.currentTarget).value });
  const check = (/** @type {string} */ name) => (/** @type {Event} */ event) => change({ [name]: /** @type {HTMLInputElement} */ (event.currentTarget).checked ? 1 : "" });
  const turnAxis = (/** @type {Event} */ event) => change({ x: /** @type {HTMLSelectElement} */ (event.currentTarget).value, low: "", high: "" });
  return html`<form class="controls" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <label>${say("axis")} <select value=${look.axis} onChange=${turnAxis}>
      ${["step", "epoch", "time"].map((name) => html`<option value=${name} selected=${look.axis === name}>${say(`axis-${name}`)}</option>`)}
    </select></label>
    <label hidden=${exported !== null}>${say("smoothing")} <select value=${look.smooth} onChange=${choose("smooth")}>
      ${[...new Set([...SMOOTHINGS, look.smooth])].sort((a, b) => a - b).map((steps) => html`<option value=${steps} selected=${look.smooth === steps}>${steps ? say("half-life", { count: steps }) : say("no-smoothing")}</option>`)}
    </select></label>
    <label><input type="checkbox" checked=${look.logY} onChange=${check("logy")} /> ${say("log-y")}</label>
    <label hidden=${exported !== null}><input type="checkbox" checked=${look.logX} onChange=${check("logx")} /> ${say("log-x")}</label>
    ${route.runs.length > 1 && html`<label><input type="checkbox" checked=${look.isGrouped} disabled=${look.axis === "time"} onChange=${check("group")} /> ${say("group")}</label>`}
    <button type="button" disabled=${!look.zoom} onClick=${() => change({ low: "", high: "" })}>${say("show-all")}</button>
  </form>`;
}

/** @param {{runs: Row[], colours: Map<string, Pen>}} props */
function Legend({ runs, colours }) {
  const without = (/** @type {string} */ id) => runs.map((row) => row.id).filter((one) => one !== id).join(",");
  return html`<ul class="legend" aria-label=${say("shown-runs")}>
    ${runs.map((row) => html`<li key=${row.id}>
      <${Swatch} pen=${colours.get(row.id)} />
      <a href=${address({}, `run/${row.id}`)}>${row.name}</a>
      ${row.status !== "finished" && html`<span class=${`status ${row.status}`}>${say(`status-${row.status}`)}</span>`}
      ${runs.length > 1 && html`<button type="button" class="small" aria-label=${say("leave-out", { name: row.name })} onClick=${() => change({ runs: without(row.id) })}>×</button>`}
    </li>`)}
    <li><a href=${address({}, "runs")}>${say("choose-runs")}</a></li>
  </ul>`;
}

/** A piece of a run's line. @param {{pen: Pen | undefined}} props */
export function Swatch({ pen }) {
  return html`<svg class="swatch" width="26" height="10" aria-hidden="true">
    <line x1="1" y1="5" x2="25" y2="5" stroke=${pen?.colour} stroke-width="3" stroke-dasharray=${pen?.dash.join(" ")} />
  </svg>`;
}
