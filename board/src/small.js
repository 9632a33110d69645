// Small pictures beside sentences: heat, lines over a unit square, parallel coordinates, dots. Each has its sentence and its table elsewhere.

import { html } from "htm/preact";
import { figure, say } from "./words.js";

const CELL = { width: 12, height: 16 }; // pixels of one observation of one layer
const SQUARE = 200; // pixels
const WIDE = { width: 900, height: 280, edge: 80 }; // of parallel coordinates; half of a long name has room at the edge

/** Rows of cells, the darker the larger. @param {{rows: string[], values: (number | null)[][], share: (value: number) => number, label: string, title: (row: number, column: number) => string}} props */
export function Heat({ rows, values, share, label, title }) {
  const width = (values[0]?.length ?? 0) * CELL.width;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><div class="heat">
    <div aria-hidden="true">${rows.map((name) => html`<span title=${name} style=${{ height: `${CELL.height}px` }}>${name}</span>`)}</div>
    <svg width=${width} height=${rows.length * CELL.height} role="img" aria-label=${label}>${values.map((line, row) => line.map((value, column) => value !== null && value !== undefined && html`<rect x=${column * CELL.width} y=${row * CELL.height} width=${CELL.width} height=${CELL.height} opacity=${share(value).toFixed(2)}><title>${title(row, column)}</title></rect>`))}</svg>
  </div></div>`;
}

/** A line from (0, 0) to (1, 1). @param {{points: number[][], label: string, x: string, y: string, level?: number}} props */
export function Square({ points, label, x, y, level }) {
  const at = (/** @type {number[]} */ [a, b]) => `${(a * SQUARE).toFixed(1)},${((1 - b) * SQUARE).toFixed(1)}`;
  return html`<figure class="square"><svg width=${SQUARE} height=${SQUARE} viewBox=${`-2 -2 ${SQUARE + 4} ${SQUARE + 4}`} role="img" aria-label=${label}>
    <rect class="frame" width=${SQUARE} height=${SQUARE} />
    ${level === undefined ? html`<line x1="0" y1=${SQUARE} x2=${SQUARE} y2="0" />` : html`<line x1="0" x2=${SQUARE} y1=${(1 - level) * SQUARE} y2=${(1 - level) * SQUARE} />`}
    <polyline points=${points.map(at).join(" ")} /></svg><figcaption>${say("square-axes", { x, y })}</figcaption></figure>`;
}

/**
 * Where values stand between 0 and 1: numbers by their size (by its logarithm, where that spreads them), anything else in their order.
 * @param {unknown[]} values @returns {{at: (value: unknown) => number, ends: string[]}}
 */
export function scaleOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.every((value) => typeof value === "number")) {
    const numbers = /** @type {number[]} */ (known);
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const form = low > 0 && high / low >= 20 ? Math.log : (/** @type {number} */ value) => value;
    return { at: (value) => (high > low ? (form(Number(value)) - form(low)) / (form(high) - form(low)) : 0.5), ends: [figure(low), figure(high)] };
  }
  const names = [...new Set(known.map(String))].sort();
  return { at: (value) => (names.length > 1 ? names.indexOf(String(value)) / (names.length - 1) : 0.5), ends: names.length > 1 ? [names[0], String(names.at(-1))] : [names[0] ?? "", ""] };
}

/**
 * A line for each run over an axis for each of `names`; the better, the stronger.
 * @param {{names: string[], runs: {name: string, values: unknown[], strength: number}[], label: string}} props
 */
export function Parallel({ names, runs, label }) {
  const scales = names.map((_, place) => scaleOf(runs.map((run) => run.values[place])));
  const x = (/** @type {number} */ place) => WIDE.edge + (place * (WIDE.width - 2 * WIDE.edge)) / Math.max(1, names.length - 1);
  const y = (/** @type {number} */ share) => WIDE.height - 30 - share * (WIDE.height - 70);
  const path = (/** @type {unknown[]} */ values) => {
    const points = values.flatMap((value, place) => (value === null || value === undefined ? [] : [`${x(place).toFixed(1)},${y(scales[place].at(value)).toFixed(1)}`]));
    return `M${points.join("L")}`;
  };
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><svg class="parallel" width=${WIDE.width} height=${WIDE.height} role="img" aria-label=${label}>
    ${runs.map(({ name, values, strength }) => html`<path d=${path(values)} opacity=${(0.15 + 0.85 * strength).toFixed(2)}><title>${name}</title></path>`)}
    ${names.map((name, place) => html`<line x1=${x(place)} x2=${x(place)} y1=${y(0)} y2=${y(1)} />
      <text x=${x(place)} y="14" class="head">${name}</text><text x=${x(place)} y=${y(1) - 8}>${scales[place].ends[1]}</text><text x=${x(place)} y=${y(0) + 18}>${scales[place].ends[0]}</text>`)}
  </svg></div>`;
}

/** A dot for each run. @param {{runs: {name: string, x: unknown, y: number}[], label: string}} props */
export function Dots({ runs, label }) {
  const [xs, ys] = [scaleOf(runs.map((run) => run.x)), scaleOf(runs.map((run) => run.y))];
  const place = (/** @type {number} */ share, /** @type {number} */ size) => 70 + share * (size - 100);
  return html`<svg class="dots" width="520" height="260" role="img" aria-label=${label}>
    <line x1="60" x2="510" y1="225" y2="225" /><line x1="60" x2="60" y1="10" y2="225" />
    <text x="55" y="222" class="end">${ys.ends[0]}</text><text x="55" y="30" class="end">${ys.ends[1]}</text><text x="70" y="245">${xs.ends[0]}</text><text x="490" y="245">${xs.ends[1]}</text>
    ${runs.map((run) => html`<circle cx=${place(xs.at(run.x), 520)} cy=${215 - ys.at(run.y) * 190} r="5"><title>${run.name}: ${figure(run.y)}</title></circle>`)}
  </svg>`;
}
