// The table of all runs. Only the rows in view exist, so that ten thousand are as quick as ten.

import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { isDark, pens } from "./colours.js";
import { Swatch } from "./curves.js";
import { address, change } from "./route.js";
import { state } from "./store.js";
import { duration, figure, metric, moment, percent, say, whole } from "./words.js";

const ROW = 36; // pixels
const SPARE = 10; // rows beyond the view
const MOST_CHOSEN = 100;

/** @typedef {import("./store.js").Row} Row */
/** @typedef {{name: string, rank: number, value: (row: Row) => unknown, show?: (row: Row) => any, isNumber?: boolean}} Column */

/** @type {Column[]} The rank tells which columns a narrow page loses first: the higher ones. */
const COLUMNS = [
  { name: "run", rank: 0, value: (row) => row.name },
  { name: "tags", rank: 3, value: (row) => (row.tags?.length ? row.tags.join(", ") : null), show: (row) => html`<span title=${row.note}>${row.tags?.join(", ")}</span>` },
  { name: "status", rank: 0, value: (row) => row.status },
  { name: "started", rank: 1, value: (row) => row.started, show: (row) => moment(row.started), isNumber: true },
  { name: "model", rank: 2, value: (row) => row.model },
  { name: "data", rank: 2, value: (row) => row.data },
  { name: "epochs", rank: 1, value: (row) => row.epochs_done, show: (row) => (row.epochs ? `${row.epochs_done} / ${row.epochs}` : "–"), isNumber: true },
  { name: "result", rank: 0, value: (row) => row.metric_value, show: (row) => (row.metric ? `${row.metric === "accuracy" ? "" : `${row.metric} `}${metric(row.metric, row.metric_value)}` : "–"), isNumber: true },
  { name: "best", rank: 3, value: (row) => row.best_accuracy, show: (row) => percent(row.best_accuracy), isNumber: true },
  { name: "train-loss", rank: 1, value: (row) => row.train_loss, show: (row) => figure(row.train_loss), isNumber: true },
  { name: "optimizer", rank: 4, value: (row) => row.optimizer },
  { name: "lr", rank: 3, value: (row) => row.lr, show: (row) => figure(row.lr), isNumber: true },
  { name: "batch-size", rank: 4, value: (row) => row.batch_size, isNumber: true },
  { name: "seed", rank: 4, value: (row) => row.seed, isNumber: true },
  { name: "time", rank: 2, value: (row) => row.seconds, show: (row) => duration(row.seconds), isNumber: true },
];
const STATUSES = ["running", "finished", "pruned", "interrupted", "failed", "unfinished", "damaged", "tensorboard"];

/** @param {{route: import("./route.js").Route}} props */
export function RunsView({ route }) {
  const sort = COLUMNS.find((column) => column.name === route.get("sort")) ?? COLUMNS[3];
  const isDown = route.get("up") !== "1";
  const rows = sorted(filtered([...state.rows.values()], route.get("filter"), route.get("status")), sort, isDown);
  const chosen = new Set(route.runs);
  const choose = (/** @type {string[]} */ ids) => change({ runs: ids.slice(0, MOST_CHOSEN).join(",") });
  const toggle = (/** @type {string} */ id) => choose(chosen.has(id) ? route.runs.filter((one) => one !== id) : [...route.runs, id]);
  const all = rows.slice(0, MOST_CHOSEN).map((row) => row.id);
  const hasAll = all.length > 0 && all.every((id) => chosen.has(id));
  if (!state.isLoaded) return html`<p class="empty">${say("loading")}</p>`;
  return html`<form class="controls" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <label>${say("filter")} <input type="search" value=${route.get("filter")} placeholder=${say("filter-example")}
        onInput=${(/** @type {Event} */ event) => change({ filter: /** @type {HTMLInputElement} */ (event.currentTarget).value })} /></label>
      <label>${say("status")} <select onChange=${(/** @type {Event} */ event) => change({ status: /** @type {HTMLSelectElement} */ (event.currentTarget).value })}>
        <option value="" selected=${!route.get("status")}>${say("any-status")}</option>
        ${STATUSES.map((name) => html`<option value=${name} selected=${route.get("status") === name}>${say(`status-${name}`)}</option>`)}
      </select></label>
      <span class="spacer" role="status">${say("rows-shown", { count: rows.length, all: state.rows.size })}</span>
      ${chosen.size > 0 && html`<button type="button" onClick=${() => choose([])}>${say("choose-none")}</button>`}
      <a class=${chosen.size ? "button" : "button faint"} href=${address({ low: "", high: "" }, "curves")}>${chosen.size ? say("overlay", { count: chosen.size }) : say("show-newest")}</a>
      ${chosen.size > 1 && html`<a class="button faint" href=${address({}, "compare")}>${say("compare")}</a>`}
    </form>
    ${rows.length ? html`<${Table} ...${{ rows, sort, isDown, chosen, toggle, hasAll, chooseAll: () => choose(hasAll ? [] : all) }} />` : html`<p class="empty">${say(state.rows.size ? "none-fits" : "no-runs")}</p>`}`;
}

/** Every word must stand in the name, model, data, optimizer, tags or note. @param {Row[]} rows @param {string} text @param {string} status */
function filtered(rows, text, status) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    if (status && row.status !== status) return false;
    const all = [row.name, row.model, row.data, row.optimizer, ...(row.tags ?? []), row.note].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

/** Numbers before words, and rows without a value last, whichever the direction. @param {Row[]} rows @param {Column} column @param {boolean} isDown */
function sorted(rows, column, isDown) {
  const sign = isDown ? -1 : 1;
  return rows
    .map((row) => ({ row, value: column.value(row) ?? null }))
    .sort((one, other) => {
      const [a, b] = [one.value, other.value];
      if (a === null || b === null) return a === b ? other.row.started - one.row.started : a === null ? 1 : -1;
      if (typeof a === "number" && typeof b === "number") return sign * (a - b) || other.row.started - one.row.started;
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return sign * String(a).localeCompare(String(b)) || other.row.started - one.row.started;
    })
    .map(({ row }) => row);
}

/** @param {any} props */
function Table({ rows, sort, isDown, chosen, toggle, hasAll, chooseAll }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [view, setView] = useState({ top: 0, height: 600 });
  const [at, setAt] = useState(0);
  useEffect(() => {
    const look = () => box.current && setView({ top: box.current.scrollTop, height: box.current.clientHeight });
    const observer = new ResizeObserver(look);
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(view.top / ROW) - SPARE);
  const shown = rows.slice(first, Math.ceil((view.top + view.height) / ROW) + SPARE);
  const colours = pens([...chosen].map((id) => ({ id })), isDark());
  const active = Math.min(at, rows.length - 1);
  const go = (/** @type {number} */ to) => {
    const place = Math.min(Math.max(to, 0), rows.length - 1);
    setAt(place);
    const top = place * ROW;
    if (box.current && (top < box.current.scrollTop || top + 2 * ROW > box.current.scrollTop + box.current.clientHeight)) box.current.scrollTop = Math.max(0, top - 2 * ROW);
    requestAnimationFrame(() => /** @type {HTMLElement | null | undefined} */ (box.current?.querySelector(`[data-row="${place}"]`))?.focus());
  };
  const press = (/** @type {KeyboardEvent} */ event) => {
    const page = Math.max(1, Math.floor(view.height / ROW) - 2);
    const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: rows.length - 1 };
    const isRow = /** @type {HTMLElement} */ (event.target).dataset.row !== undefined;
    if (event.key in moves && !(event.target instanceof HTMLInputElement)) go(moves[/** @type {keyof typeof moves} */ (event.key)]);
    else if (isRow && event.key === " ") toggle(rows[active].id);
    else if (isRow && event.key === "Enter") location.hash = address({}, `run/${rows[active].id}`);
    else return;
    event.preventDefault();
  };
  return html`<p class="hint">${say("table-keys")}</p>
    <div class="table" ref=${box} onKeyDown=${press}
      onScroll=${(/** @type {Event} */ event) => { const target = /** @type {HTMLElement} */ (event.currentTarget); setView({ top: target.scrollTop, height: target.clientHeight }); }}>
    <table aria-label=${say("runs")} aria-rowcount=${rows.length + 1}>
      <thead><tr aria-rowindex="1">
        <th scope="col" class="tick"><input type="checkbox" aria-label=${say("choose-all", { count: MOST_CHOSEN })} checked=${hasAll} onChange=${chooseAll} /></th>
        ${COLUMNS.map((column) => html`<th scope="col" class=${`rank-${column.rank} ${column.isNumber ? "number" : ""}`}
          aria-sort=${column === sort ? (isDown ? "descending" : "ascending") : "none"}>
          <button type="button" onClick=${() => change({ sort: column.name, up: column === sort && isDown ? 1 : "" })}>${say(column.name)}${column === sort ? (isDown ? " ↓" : " ↑") : ""}</button>
        </th>`)}
      </tr></thead>
      <tbody>
        ${first > 0 && html`<tr aria-hidden="true" class="filler" style=${{ height: `${first * ROW}px` }}><td colspan=${COLUMNS.length + 1}></td></tr>`}
        ${shown.map((/** @type {Row} */ row, /** @type {number} */ place) => html`<${RunRow} key=${row.id} row=${row} place=${first + place} isActive=${first + place === active}
          pen=${colours.get(row.id)} isChosen=${chosen.has(row.id)} toggle=${toggle} onFocus=${() => setAt(first + place)} />`)}
        ${first + shown.length < rows.length && html`<tr aria-hidden="true" class="filler" style=${{ height: `${(rows.length - first - shown.length) * ROW}px` }}><td colspan=${COLUMNS.length + 1}></td></tr>`}
      </tbody>
    </table></div>`;
}

/** @param {any} props */
function RunRow({ row, place, isActive, pen, isChosen, toggle, onFocus }) {
  return html`<tr data-row=${place} tabindex=${isActive ? 0 : -1} aria-rowindex=${place + 2} class=${isChosen ? "chosen" : ""} onFocus=${onFocus}>
    <td class="tick"><input type="checkbox" tabindex="-1" aria-label=${say("choose", { name: row.name })} checked=${isChosen} onChange=${() => toggle(row.id)} /></td>
    ${COLUMNS.map((column) => html`<td class=${`rank-${column.rank} ${column.isNumber ? "number" : ""}`}>${cell(column, row, pen)}</td>`)}
  </tr>`;
}

/** @param {Column} column @param {Row} row @param {any} pen */
function cell(column, row, pen) {
  if (column.name === "run") return html`<span class="name">${pen && html`<${Swatch} pen=${pen} />`}<a tabindex="-1" title=${row.name} href=${address({}, `run/${row.id}`)}>${row.name}</a></span>`;
  if (column.name === "status") return html`<span class=${`status ${row.status}`} title=${row.problem}>${say(`status-${row.status}`)}</span>`;
  const value = column.value(row);
  if (value === null || value === undefined || value === "") return "–";
  return column.show ? column.show(row) : typeof value === "number" ? whole(value) : String(value);
}
