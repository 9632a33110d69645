// What the page knows of the server: the list of runs, the logs of some, and curves; asked for again by cursor.

import { exported, exportedAnswer, exportedCurves } from "./offline.js";
import { asJson, Refused } from "./words.js";

/**
 * @typedef {{id: string, name: string, status: string, started: number, problem: string, model?: string, data?: string,
 *   epochs_done?: number, epochs?: number, steps?: number, split?: string, train_loss?: number, test_loss?: number,
 *   metric?: string, metric_value?: number, is_higher_better?: boolean, best_accuracy?: number, best_epoch?: number, seconds?: number,
 *   optimizer?: string, bytes?: number, tags?: string[], note?: string, lr?: number, batch_size?: number, seed?: number}} Row
 * @typedef {{kind?: string, event?: string, epoch?: number, step?: number, time?: number, message?: string,
 *   values?: Record<string, any>, [name: string]: any}} Line
 * @typedef {{history: Line[], values: Line[], machine: Line[], cursors: string[]}} Log
 */

const RUNNING_MS = 1000;
const IDLE_MS = 10000;
const LONG_LIST_MS = 1500; // between two looks at a list that is not whole yet
const MANY_LINES = 200; // as many may be a part of what there is

export const state = {
  /** @type {Map<string, Row>} */
  rows: new Map(),
  version: 0,
  server: "",
  isLoaded: false,
  /** Whether all runs were read. */
  isWhole: false,
  /** "" while all is well; else "gone" (no answer) or "cookie" (another server, or another browser). */
  trouble: "",
  ticks: 0,
};
/** @type {Map<string, Log>} */
export const logs = new Map();
/** @type {Set<() => void>} */
const listeners = new Set();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let isAsking = false;
let toldAt = -Infinity;

/** Call a function whenever the list was asked for; return what stops that. @param {() => void} listener */
export function listen(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Ask now, and again and again: often while something runs, never while the page is hidden. */
export async function poll() {
  clearTimeout(timer);
  if (document.hidden || isAsking) return;
  isAsking = true;
  try {
    await refreshList();
    state.trouble = "";
  } catch (error) {
    state.trouble = error instanceof Refused && error.status === 401 ? "cookie" : "gone";
  }
  isAsking = false;
  state.ticks += 1;
  if (state.isWhole || state.trouble || performance.now() - toldAt > LONG_LIST_MS) {
    toldAt = performance.now(); // a long list comes in parts: to sort and draw it anew for each would take longer than to read it
    for (const listener of [...listeners]) listener();
  }
  const isLive = [...state.rows.values()].some((row) => row.status === "running");
  if (exported) return; // nothing changes any more
  timer = setTimeout(poll, !state.isWhole && !state.trouble ? 0 : isLive ? RUNNING_MS : IDLE_MS);
}
document.addEventListener("visibilitychange", () => void poll());

async function refreshList() {
  const found = await ask(`/api/runs?since=${state.version}`);
  if (found.server !== state.server) {
    // another server: what it counts is not what this page counted
    const isFirst = state.server === "";
    state.rows.clear();
    Object.assign(state, { version: 0, server: found.server });
    if (!isFirst) return refreshList();
  }
  for (const row of found.rows) state.rows.set(row.id, row);
  for (const id of found.gone) state.rows.delete(id);
  state.version = found.version;
  state.isLoaded = true;
  state.isWhole = found.whole;
}

/** Ask for JSON. @param {string} path @returns {Promise<any>} */
export async function ask(path) {
  if (!exported) return asJson(await fetch(path));
  const found = exportedAnswer(path);
  if (found === undefined) throw new Refused(404);
  return found;
}

/** Change something; return {error} in words where it could not be done. @param {string} path @param {Record<string, unknown>} content @returns {Promise<any>} */
export async function post(path, content) {
  const headers = { "content-type": "application/json", "x-rushlight-token": document.documentElement.dataset.token ?? "" };
  return asJson(await fetch(path, { method: "POST", headers, body: JSON.stringify(content) }));
}

/** Read what the logs of some runs have new; return whether there was anything. @param {string[]} runs */
export async function refreshLogs(runs) {
  if (exported && runs.every((id) => logs.has(id))) return false;
  let isNew = false;
  /** @type {string[]} */
  const unread = [];
  for (let start = 0; start < runs.length; start += 100) {
    const asked = runs.slice(start, start + 100).map((id) => {
      const known = logs.get(id);
      return `run=${[id, ...(known?.cursors ?? ["", "", ""])].join("~")}`;
    });
    const found = await ask(`/api/logs?${asked.join("&")}`);
    for (const [id, parts] of Object.entries(found)) {
      const log = logs.get(id) ?? { history: [], values: [], machine: [], cursors: [] };
      for (const name of /** @type {const} */ (["history", "values", "machine"])) {
        const part = parts[name];
        if (part.anew) log[name] = [];
        if (part.lines.length) log[name] = [...log[name], ...part.lines];
        isNew ||= part.anew || part.lines.length > 0;
        if (part.lines.length > MANY_LINES) unread.push(id);
      }
      log.cursors = [parts.history.cursor, parts.values.cursor, parts.machine.cursor];
      logs.set(id, log);
    }
  }
  if (unread.length) await refreshLogs([...new Set(unread)]);
  return isNew;
}

/**
 * @typedef {{id: string, smoothed: boolean, count: number, nan: number, up: number, down: number, under: number,
 *   first: number | null, last: number | null, low: number | null, low_step: number | null, high: number | null,
 *   high_step: number | null, marks: number[][], knots: number[][] | null, raw: Float32Array, smooth: Float32Array | null}} RunCurve
 * @typedef {{low: number, high: number, slots: number, x: Float64Array, runs: RunCurve[]}} Curves
 */

/**
 * Read the loss curves of runs. @param {string[]} runs @param {Record<string, string | number>} view
 * @param {AbortSignal} [signal] @returns {Promise<Curves>}
 */
export async function readCurves(runs, view, signal) {
  if (exported) return unpacked(exportedCurves(String(view.axis)));
  const query = new URLSearchParams(Object.entries(view).map(([name, value]) => [name, String(value)]));
  for (const id of runs) query.append("run", id);
  const answer = await fetch(`/api/curves?${query}`, { signal });
  if (!answer.ok) throw new Refused(answer.status);
  return unpacked(await answer.arrayBuffer());
}

/** Return the curves in an answer's bytes. @param {ArrayBuffer} bytes @returns {Curves} */
function unpacked(bytes) {
  const length = new DataView(bytes).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  let offset = 4 + length;
  const x = new Float64Array(bytes, offset, header.places);
  offset += x.byteLength;
  const next = () => {
    const values = new Float32Array(bytes, offset, header.places);
    offset += values.byteLength;
    return values;
  };
  for (const run of header.runs) {
    run.raw = next();
    run.smooth = run.smoothed ? next() : null;
  }
  return { ...header, x };
}
