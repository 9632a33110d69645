// A chart as a file: what is on the screen as PNG, its lines as SVG.

import { html } from "htm/preact";
import { say } from "./words.js";

const TITLE = 30; // pixels above the chart
const NAMES = 20; // pixels for each line's name under it
const MOST_NAMES = 12;

/** @typedef {import("uplot")} Plot @typedef {import("./chart.js").ChartProps} ChartProps */

/** Offer a file. @param {Blob} content @param {string} name */
export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** @param {{plot: () => Plot | null, props: ChartProps}} props */
export function SavePicture({ plot, props }) {
  const png = () => {
    const made = plot();
    if (made) pngOf(made, props).toBlob((content) => content && save(content, `${props.title}.png`));
  };
  const svg = () => {
    const made = plot();
    if (made) save(new Blob([new XMLSerializer().serializeToString(svgOf(made, props))], { type: "image/svg+xml" }), `${props.title}.svg`);
  };
  return html`<button type="button" onClick=${png}>${say("save-png")}</button><button type="button" onClick=${svg}>${say("save-svg")}</button>`;
}

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The lines that are named under a picture: each run once. @param {ChartProps} props */
const named = (props) => props.lines.filter((line, place) => props.lines.findIndex((one) => one.name === line.name) === place).slice(0, MOST_NAMES);

/** @param {Plot} plot @param {ChartProps} props */
function pngOf(plot, props) {
  const scale = devicePixelRatio;
  const canvas = document.createElement("canvas");
  const { canvas: drawn } = plot.ctx;
  canvas.width = drawn.width;
  canvas.height = drawn.height + (TITLE + NAMES * named(props).length + 8) * scale;
  const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  ctx.fillStyle = colour("--page");
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(drawn, 0, TITLE * scale);
  ctx.scale(scale, scale);
  ctx.fillStyle = colour("--ink");
  ctx.font = "bold 15px system-ui, sans-serif";
  ctx.fillText(props.title, 12, 20);
  ctx.font = "13px system-ui, sans-serif";
  named(props).forEach((line, place) => {
    const y = TITLE + drawn.height / scale + NAMES * place + 14;
    ctx.fillText(line.name, 52, y);
    ctx.strokeStyle = line.colour;
    ctx.lineWidth = 2.5;
    ctx.setLineDash(line.dash);
    ctx.beginPath();
    ctx.moveTo(16, y - 4);
    ctx.lineTo(44, y - 4);
    ctx.stroke();
  });
  return canvas;
}

/** @param {Plot} plot @param {ChartProps} props @returns {SVGElement} */
function svgOf(plot, props) {
  const make = (/** @type {string} */ name, /** @type {Record<string, string | number>} */ attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    if (text) made.textContent = text;
    return made;
  };
  const { left, top, width, height } = Object.fromEntries(Object.entries(plot.bbox).map(([name, value]) => [name, value / devicePixelRatio]));
  const whole = TITLE + plot.height + NAMES * named(props).length + 8;
  const root = make("svg", { width: plot.width, height: whole, viewBox: `0 0 ${plot.width} ${whole}`, "font-family": "system-ui, sans-serif", "font-size": 12, fill: colour("--ink") });
  root.append(make("rect", { width: "100%", height: "100%", fill: colour("--page") }), make("text", { x: 12, y: 20, "font-size": 15, "font-weight": "bold" }, props.title));
  const at = (/** @type {number} */ value, /** @type {"x" | "y"} */ axis) => plot.valToPos(value, axis) + (axis === "x" ? left : top + TITLE);
  for (const [place, axis] of /** @type {const} */ ([[0, "x"], [1, "y"]])) {
    const { _splits: splits, _values: values } = /** @type {any} */ (plot.axes[place]);
    (splits ?? []).forEach((/** @type {number} */ split, /** @type {number} */ index) => {
      if (!values?.[index]) return;
      const p = at(split, axis);
      root.append(
        axis === "x" ? make("line", { x1: p, x2: p, y1: top + TITLE, y2: top + height + TITLE, stroke: colour("--line") }) : make("line", { x1: left, x2: left + width, y1: p, y2: p, stroke: colour("--line") }),
        axis === "x" ? make("text", { x: p, y: top + height + TITLE + 18, "text-anchor": "middle" }, String(values[index])) : make("text", { x: left - 8, y: p + 4, "text-anchor": "end" }, String(values[index])),
      );
    });
  }
  const clip = make("clipPath", { id: "inside" });
  clip.append(make("rect", { x: left, y: top + TITLE, width, height }));
  const lines = make("g", { "clip-path": "url(#inside)", fill: "none", "stroke-linejoin": "round" });
  for (const line of props.lines.filter((one) => !one.isEdge)) lines.append(make("path", { d: pathOf(props.x, line.values, at), stroke: line.colour, "stroke-width": line.faint ? 1 : 1.75, "stroke-opacity": line.faint ? 0.35 : 1, "stroke-dasharray": line.dash.join(" ") }));
  for (const mark of props.marks ?? []) {
    const [x, y, size] = [at(mark.x, "x"), mark.isLow ? top + height + TITLE : top + TITLE, mark.isLow ? -7 : 7];
    lines.append(make("path", { d: `M${x},${y + size}L${x - 3.5},${y}L${x + 3.5},${y}Z`, fill: mark.colour }));
  }
  root.append(clip, lines);
  named(props).forEach((line, place) => {
    const y = TITLE + plot.height + NAMES * place + 14;
    root.append(make("line", { x1: 16, x2: 44, y1: y - 4, y2: y - 4, stroke: line.colour, "stroke-width": 2.5, "stroke-dasharray": line.dash.join(" ") }), make("text", { x: 52, y, "font-size": 13 }, line.name));
  });
  return /** @type {SVGElement} */ (root);
}

/** The path of a line: null is a gap, undefined is no point. @param {number[]} x @param {import("./chart.js").Values} values @param {(value: number, axis: "x" | "y") => number} at */
function pathOf(x, values, at) {
  let path = "";
  let isGap = true;
  x.forEach((place, index) => {
    const value = values[index];
    if (value === undefined) return;
    if (value !== null) path += `${isGap ? "M" : "L"}${at(place, "x").toFixed(1)},${at(value, "y").toFixed(1)}`;
    isGap = value === null;
  });
  return path;
}
