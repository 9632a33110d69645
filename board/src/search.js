// What many runs were set to, against what came out: for searches.

import { html } from "htm/preact";
import { table } from "./chart.js";
import { address, change } from "./route.js";
import { Dots, Parallel } from "./small.js";
import { figure, metric, say } from "./words.js";

const MOST_AXES = 7;

/** @typedef {import("./store.js").Row} Row */

/** @param {{rows: Row[], settings: Record<string, Record<string, unknown>>, route: import("./route.js").Route}} props */
export function Search({ rows, settings, route }) {
  const known = rows.filter((row) => settings[row.id] && typeof row.metric_value === "number");
  const kinds = new Set(known.map((row) => row.metric));
  const names = varied(known.map((row) => settings[row.id]));
  if (known.length < 3 || kinds.size !== 1 || !names.length) return null;
  const [name] = /** @type {Set<string>} */ (kinds);
  const sign = known[0].is_higher_better ? 1 : -1;
  const ranked = [...known].sort((a, b) => sign * (Number(b.metric_value) - Number(a.metric_value)));
  const axes = names.slice(0, MOST_AXES);
  const x = names.includes(route.get("by")) ? route.get("by") : names[0];
  const placed = ranked.filter((row) => settings[row.id][x] !== undefined);
  const shown = (/** @type {unknown} */ value) => (typeof value === "number" ? figure(value) : value === undefined ? "–" : String(value));
  const best = ranked[0];
  const said = say("search-sentence", { count: known.length, names: names.join(", "), best: best.name, figure: name, value: metric(name, best.metric_value) });
  return html`<section><h2>${say("search")}</h2><p>${said}</p>
    <${Parallel} names=${[...axes, name]} label=${said} runs=${ranked.map((row, place) => ({ name: `${row.name}: ${metric(name, row.metric_value)}`, values: [...axes.map((one) => settings[row.id][one]), row.metric_value], strength: 1 - place / (ranked.length - 1) })).reverse()} />
    <p><label>${say("search-by")} <select onChange=${(/** @type {Event} */ event) => change({ by: /** @type {HTMLSelectElement} */ (event.currentTarget).value })}>
      ${names.map((one) => html`<option value=${one} selected=${one === x}>${one}</option>`)}</select></label></p>
    <div class="scroll" tabindex="0" role="region" aria-label=${say("search-dots", { x, y: name })}><${Dots} label=${say("search-dots", { x, y: name })} runs=${placed.map((row) => ({ name: row.name, x: settings[row.id][x], y: Number(row.metric_value) }))} /></div>
    <details><summary>${say("as-table")}</summary><div class="scroll" tabindex="0" role="region" aria-label=${say("search")}>${table([
      [say("run"), name, ...names],
      ...ranked.map((row) => [html`<a href=${address({}, `run/${row.id}`)}>${row.name}</a>`, metric(name, row.metric_value), ...names.map((one) => shown(settings[row.id][one]))]),
    ])}</div></details></section>`;
}

/** The settings that are not the same in all runs, those with most values first, seeds last. @param {Record<string, unknown>[]} all */
function varied(all) {
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))];
  const values = new Map(names.map((name) => [name, new Set(all.map((one) => one[name])).size]));
  const rank = (/** @type {string} */ name) => (/seed/.test(name) ? 1e9 : -Number(values.get(name)));
  const isOneSeed = Number(values.get("seed")) > 1; // then those that follow from it tell nothing more
  return names.filter((name) => Number(values.get(name)) > 1 && !(isOneSeed && / seed$/.test(name))).sort((a, b) => rank(a) - rank(b));
}
