// The page's texts in one language, and numbers as people read them.

import { exported } from "./offline.js";

/** @type {Record<string, string | {one: string, other: string}>} */
let words = {};
export let language = "en";

/** Load the texts of a language. @param {string} code */
export async function loadWords(code) {
  words = exported ? exported.words[code] : await asJson(await fetch(`/api/words/${code}`));
  language = code;
  document.documentElement.lang = code === "zh" ? "zh-CN" : code;
}

/** @param {Response} answer @returns {Promise<any>} */
export async function asJson(answer) {
  if (!answer.ok) throw new Refused(answer.status);
  return answer.json();
}

/** An answer that is none: the server is gone, or does not know this browser. */
export class Refused extends Error {
  /** @param {number} status */
  constructor(status) {
    super(String(status));
    this.status = status;
  }
}

/**
 * Return a text with its values filled in; one with two forms is chosen by the value `count`.
 * @param {string} key @param {Record<string, unknown>} [values]
 */
export function say(key, values = {}) {
  const found = words[key] ?? key;
  const form = typeof found === "string" ? found : values.count === 1 ? found.one : found.other;
  return form.replace(/\{(\w+)(:,)?\}/g, (_, name, grouped) => (grouped ? whole(Number(values[name])) : String(values[name])));
}

/** @param {number} value */
export const whole = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });

/** Return a figure with about four digits. @param {unknown} value */
export function figure(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  if (Number.isInteger(value)) return whole(value);
  return size < 100 ? value.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : value.toFixed(1);
}

/** @param {unknown} value */
export const percent = (value) => (typeof value === "number" ? `${(value * 100).toFixed(2)}%` : "–");

/** Return a metric's value: an accuracy in percent, anything else as a figure. @param {string} name @param {unknown} value */
export const metric = (name, value) => (/accuracy|recall|precision|f1/.test(name) ? percent(value) : figure(value));

/** Return a size in decimal units, as disks are sold. @param {number} bytes */
export function size(bytes) {
  const scale = Math.min(4, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return `${scale ? (bytes / 1000 ** scale).toPrecision(3) : bytes} ${["B", "kB", "MB", "GB", "TB"][scale]}`;
}

/** Return a span of time in at most two units. @param {unknown} seconds */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "–";
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}s`;
  const total = Math.round(seconds);
  if (total < 3600) return `${Math.floor(total / 60)}m ${two(total % 60)}s`;
  if (total < 172800) return `${Math.floor(total / 3600)}h ${two(Math.floor((total % 3600) / 60))}m`;
  return `${Math.floor(total / 86400)}d ${two(Math.floor((total % 86400) / 3600))}h`;
}

/** Return Unix seconds as a local day and minute. @param {unknown} seconds */
export function moment(seconds) {
  if (typeof seconds !== "number" || !seconds) return "–";
  const date = new Date(seconds * 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
