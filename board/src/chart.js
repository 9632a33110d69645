// One chart: a canvas by uPlot, a sentence, a table, and the keyboard.

import { html } from "htm/preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { isDark } from "./colours.js";
import { save as saveFile, SavePicture } from "./picture.js";
import { say } from "./words.js";

const HEIGHT = 270;
const ALL_POINTS = 60; // up to so many points of a line are drawn as dots, too
const MARK = 7; // pixels
const DENSE = 1000; // points from which a line is drawn one pixel wide: a wider zigzag takes forty times as long
const MANY = 32; // lines from which dashes, which take five times as long, tell nothing apart any more

/** @typedef {(number | null | undefined)[]} Values */
/**
 * @typedef {{name: string, colour: string, dash: number[], values: Values, faint?: boolean, isSmooth?: boolean, isEdge?: boolean}} Line
 * Of two edges, the upper one comes first, and what is between them is filled. A value of null is a gap; undefined is no point, and the line goes on.
 * @typedef {{x: number, isLow: boolean, colour: string}} Mark  a value that cannot be drawn, at the upper or the lower edge
 * @typedef {{title: string, sentence: string, x: number[], lines: Line[], marks?: Mark[], logX?: boolean, logY?: boolean,
 *   range: [number, number], onZoom: (range: [number, number] | null) => void, xName: string, formatX: (x: number) => string,
 *   formatY: (y: number) => string, readout: (index: number) => string, rows: () => (string | number)[][], below?: any, onWidth?: (pixels: number) => void,
 *   isStale?: boolean}} ChartProps
 */

/** @param {ChartProps} props */
export function Chart(props) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {uPlot | null} */ (null));
  const latest = useRef(props);
  latest.current = props;
  const [width, setWidth] = useState(0);
  const [said, setSaid] = useState("");
  const [isOpen, setOpen] = useState(false);
  const id = useMemo(() => `chart-${Math.random().toString(36).slice(2)}`, []);
  const look = JSON.stringify([
    props.lines.map((line) => [line.name, line.colour, line.dash, line.faint]), props.x.length > DENSE, props.logX, props.logY, isDark(), width, props.xName,
  ]);

  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    if (!box.current || width < 50) return undefined;
    const made = new uPlot(options(latest, width, setSaid), data(latest.current), box.current);
    plot.current = made;
    latest.current.onWidth?.(Math.round(made.bbox.width));
    return () => {
      made.destroy();
      plot.current = null;
    };
  }, [look]);

  useEffect(() => {
    const made = plot.current;
    if (!made || (props.isStale && props.lines.length > MANY && props.x.length > DENSE)) return; // it is drawn when what was asked for is there
    made.batch(() => {
      made.setData(data(props), false);
      made.setScale("x", { min: props.range[0], max: props.range[1] });
    });
  }, [props.x, props.lines, props.range[0], props.range[1], props.isStale]);

  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (plot.current && press(plot.current, event, latest.current)) event.preventDefault();
  };
  return html`<figure class="chart" aria-labelledby=${`${id}-title`}>
    <figcaption>
      <h2 id=${`${id}-title`}>${props.title}</h2>
      <p class="sentence" id=${`${id}-sentence`}>${props.sentence}</p>
    </figcaption>
    <div class=${props.isStale ? "plot stale" : "plot"} ref=${box} tabindex="0" role="application" aria-roledescription=${say("chart")}
      aria-labelledby=${`${id}-title`} aria-describedby=${`${id}-sentence`} onKeyDown=${pressed}></div>
    <p class="readout" role="status">${said || say("chart-keys")}</p>
    <details onToggle=${(/** @type {Event} */ event) => setOpen(/** @type {HTMLDetailsElement} */ (event.currentTarget).open)}>
      <summary>${say("as-table")}</summary>
      ${isOpen && html`<div class="scroll" tabindex="0" role="region" aria-label=${props.title}>${table(props.rows())}</div>
        <p class="actions"><${SaveTable} name=${props.title} rows=${props.rows} /><${SavePicture} plot=${() => plot.current} props=${props} />${props.below}</p>`}
    </details>
  </figure>`;
}

/** @param {ChartProps} props @returns {any} */
const data = (props) => [props.x, ...props.lines.map((line) => line.values)];

/**
 * Move the cursor or the zoom by a key; return whether it is one of ours.
 * @param {uPlot} plot @param {KeyboardEvent} event @param {ChartProps} props
 */
function press(plot, event, props) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const [low, high] = props.range;
  const shown = props.x.flatMap((x, index) => (x >= low && x <= high && props.lines.some((line) => line.values[index] != null) ? [index] : []));
  if (!shown.length) return false;
  const index = plot.cursor.idx ?? shown[0];
  const place = Math.max(0, shown.findIndex((one) => one >= index));
  const stride = event.shiftKey ? Math.max(10, Math.round(shown.length / 20)) : 1;
  const centre = plot.cursor.idx == null ? (low + high) / 2 : props.x[index];
  const steps = { ArrowLeft: place - stride, ArrowRight: place + stride, Home: 0, End: shown.length - 1 };
  if (event.key in steps) {
    const to = shown[Math.min(Math.max(steps[/** @type {keyof typeof steps} */ (event.key)], 0), shown.length - 1)];
    plot.setCursor({ left: plot.valToPos(props.x[to], "x"), top: plot.bbox.height / devicePixelRatio / 2 });
    return true;
  }
  if (event.key === "+" || event.key === "=" || event.key === "-") {
    const half = ((high - low) / 2) * (event.key === "-" ? 2 : 0.5);
    if (event.key === "-" && half >= high - low && low <= props.x[0]) props.onZoom(null);
    else props.onZoom([Math.max(centre - half, props.logX ? props.x[0] : 0), centre + half]);
    return true;
  }
  if (event.key === "0" || event.key === "Escape") {
    props.onZoom(null);
    return true;
  }
  return false;
}

/**
 * @param {{current: ChartProps}} latest @param {number} width @param {(text: string) => void} tell @returns {uPlot.Options}
 */
function options(latest, width, tell) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--quiet").trim();
  const line = style.getPropertyValue("--line").trim();
  const props = latest.current;
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [12, 30, 0, 0],
    scales: {
      x: { time: false, distr: props.logX ? 3 : 1, range: () => latest.current.range },
      y: { distr: props.logY ? 3 : 1, range: (_, low, high) => rangeY(low, high, props.logY) },
    },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : props.formatX(tick))), space: 70, size: 36 },
      { ...axis, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : props.formatY(tick))), size: 68 },
    ],
    series: [{}, ...props.lines.map((one) => series(one, latest))],
    bands: props.lines.flatMap((one, place) => (one.isEdge && props.lines[place + 1]?.isEdge && one.name === props.lines[place + 1].name ? [{ series: [place + 1, place + 2], fill: `${one.colour}33` }] : [])),
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { size: 7 },
      bind: { dblclick: () => () => (latest.current.onZoom(null), null) },
    },
    hooks: {
      setSelect: [
        (plot) => {
          if (plot.select.width < 4) return;
          latest.current.onZoom([plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")]);
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
      setCursor: [(plot) => tell(plot.cursor.idx == null || plot.cursor.left == null || plot.cursor.left < 0 ? "" : latest.current.readout(plot.cursor.idx))],
      draw: [(plot) => drawMarks(plot, latest.current.marks ?? [])],
    },
  };
}

/** @param {Line} line @param {{current: ChartProps}} latest @returns {uPlot.Series} */
function series(line, latest) {
  const isDense = latest.current.x.length > DENSE;
  const isMany = latest.current.lines.length > MANY;
  if (line.isEdge) return { label: line.name, width: 0, points: { show: false } };
  return {
    label: line.name,
    stroke: line.faint ? `${line.colour}59` : line.colour,
    width: line.faint || (isDense && isMany) || (isDense && !line.isSmooth) ? 1 : 1.75,
    dash: line.faint || (isDense && isMany) ? [] : line.dash,
    spanGaps: false,
    points: { show: true, size: 5, fill: line.colour, filter: (plot, index) => lonely(plot.data[index], latest.current.x.length) },
  };
}

/** Return which values of a line are drawn as dots: all of a few, else those that no line reaches. @param {any} values @param {number} count */
function lonely(values, count) {
  /** @type {number[]} */
  const found = [];
  let before = /** @type {unknown} */ (null);
  /** @type {number[]} */
  const points = [];
  for (let index = 0; index < count; index += 1) if (values[index] !== undefined) points.push(index);
  points.forEach((index, place) => {
    const value = values[index];
    const after = values[points[place + 1]] ?? null;
    if (value !== null && (points.length <= ALL_POINTS || (before === null && after === null))) found.push(index);
    before = value;
  });
  return found;
}

/** @param {number | null} low @param {number | null} high @param {boolean | undefined} isLog @returns {[number, number]} */
function rangeY(low, high, isLog) {
  if (low == null || high == null || !Number.isFinite(low) || !Number.isFinite(high)) return isLog ? [0.1, 10] : [0, 1];
  if (isLog) return [low / 1.15, high * 1.15];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** Draw a triangle for each value that has no place: at the upper edge NaN and infinity, at the lower one what is too low. @param {uPlot} plot @param {Mark[]} marks */
function drawMarks(plot, marks) {
  const { ctx, bbox } = plot;
  const size = MARK * devicePixelRatio;
  for (const mark of marks) {
    const x = plot.valToPos(mark.x, "x", true);
    if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
    const [edge, inner] = mark.isLow ? [bbox.top + bbox.height, bbox.top + bbox.height - size] : [bbox.top, bbox.top + size];
    ctx.fillStyle = mark.colour;
    ctx.beginPath();
    ctx.moveTo(x, inner);
    ctx.lineTo(x - size / 2, edge);
    ctx.lineTo(x + size / 2, edge);
    ctx.fill();
  }
}

/**
 * Offer rows of cells as a CSV file. A cell that a spreadsheet would take for a formula is quoted, with an apostrophe before it.
 * @param {{name: string, rows: () => (string | number)[][] | Promise<(string | number)[][]>}} props
 */
export function SaveTable({ name, rows }) {
  const save = async () => {
    const cell = (/** @type {string | number} */ value) => {
      const text = String(value);
      const isFormula = /^[=+@\t\r]|^-(?![\d.])/.test(text);
      return isFormula || /[",\n]/.test(text) ? `"${isFormula ? "'" : ""}${text.replaceAll('"', '""')}"` : text;
    };
    const content = (await rows()).map((row) => row.map(cell).join(",")).join("\r\n");
    saveFile(new Blob([`\ufeff${content}\r\n`], { type: "text/csv" }), `${name}.csv`); // the mark tells spreadsheets that it is UTF-8
  };
  return html`<button type="button" onClick=${save}>${say("save-table")}</button>`;
}

/** A table from rows of cells, the first row being the heads. @param {any[][]} rows */
export function table([heads, ...rows]) {
  return html`<table>
    <thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell, place) => (place ? html`<td>${cell}</td>` : html`<th scope="row">${cell}</th>`))}</tr>`)}</tbody>
  </table>`;
}
