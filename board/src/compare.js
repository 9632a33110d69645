// Runs side by side: what their recipes differ in, and whether two models can be told apart on one test set.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { table } from "./chart.js";
import { address } from "./route.js";
import { described } from "./run.js";
import { Search } from "./search.js";
import { ask, state } from "./store.js";
import { duration, figure, metric, percent, say } from "./words.js";

const MOST = 12; // runs side by side

/** @typedef {import("./store.js").Row} Row */

/** @param {{route: import("./route.js").Route}} props */
export function CompareView({ route }) {
  const all = route.runs.flatMap((id) => state.rows.get(id) ?? []);
  const rows = all.slice(0, MOST);
  const recipes = useRecipes(rows);
  if (!state.isLoaded) return html`<p class="empty">${say("loading")}</p>`;
  if (rows.length < 2) return html`<p class="empty">${say("compare-few")} <a href=${address({}, "runs")}>${say("choose-runs")}</a></p>`;
  const differences = differing(rows.map((row) => recipes.get(row.id) ?? {}));
  const results = [
    [say("status"), ...rows.map((row) => say(`status-${row.status}`))],
    [say("epochs"), ...rows.map((row) => `${row.epochs_done ?? "–"} / ${row.epochs ?? "–"}`)],
    [say("result"), ...rows.map((row) => (row.metric ? `${row.metric} ${metric(row.metric, row.metric_value)}` : "–"))],
    [say("train-loss"), ...rows.map((row) => figure(row.train_loss))],
    [say("time"), ...rows.map((row) => duration(row.seconds))],
  ];
  return html`<article>
    <h1>${say("compare")}</h1>
    <section><h2>${say("two-models")}</h2>
      ${rows.length === 2 ? html`<${Verdict} one=${rows[0]} other=${rows[1]} hasOtherRecipe=${differences.some(([name]) => name !== "seed")} />` : html`<p>${say("choose-two")}</p>`}
    </section>
    <${Recipes} rows=${all} route=${route} />
    <section><h2>${say("differences")}</h2>
      <p>${recipes.size && !differences.length ? say("no-differences") : say("differences-about")}</p>
      <div class="scroll" tabindex="0" role="region" aria-label=${say("differences")}>
        ${table([[say("entry"), ...rows.map((row) => row.name)], ...differences, ...results])}
      </div>
      <p><a class="button" href=${address({ low: "", high: "" }, "curves")}>${say("overlay", { count: rows.length })}</a></p>
    </section>
  </article>`;
}

/** Read the recipes of some runs. @param {Row[]} rows @returns {Map<string, Record<string, unknown>>} */
function useRecipes(rows) {
  const [recipes, setRecipes] = useState(/** @type {Map<string, Record<string, unknown>>} */ (new Map()));
  useEffect(() => {
    let isHere = true;
    Promise.all(rows.map((row) => ask(`/api/runs/${row.id}`).then((found) => /** @type {[string, any]} */ ([row.id, found.recipe ?? {}])))).then(
      (found) => isHere && setRecipes(new Map(found)), () => undefined,
    );
    return () => void (isHere = false);
  }, [rows.map((row) => row.id).join()]);
  return recipes;
}

/** Return the entries that are not the same in all recipes, each with its value in every one. @param {Record<string, unknown>[]} recipes */
function differing(recipes) {
  const names = new Set(recipes.flatMap((recipe) => Object.keys(recipe)));
  return [...names]
    .filter((name) => new Set(recipes.map((recipe) => JSON.stringify(recipe[name] ?? null))).size > 1)
    .map((name) => [name.replaceAll("_", " "), ...recipes.map((recipe) => (recipe[name] == null ? "–" : described(recipe[name])))]);
}

/** @param {{one: Row, other: Row, hasOtherRecipe: boolean}} props */
function Verdict({ one, other, hasOtherRecipe }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let isHere = true;
    setFound(null);
    ask(`/api/compare?run=${one.id}&run=${other.id}`).then((answer) => isHere && setFound(answer), () => undefined);
    return () => void (isHere = false);
  }, [one, other]);
  if (!found) return html`<p>${say("loading")}</p>`;
  const names = { one: one.name, other: other.name };
  /** @type {any[]} */
  const said = [html`<strong>${say(`verdict-${found.verdict}`, names)}</strong>`];
  if (found.kind === "classes") said.push(say("only-right", { ...names, count: found.n, first: found.only_one, second: found.only_other }));
  if (found.kind === "numbers") said.push(say("mean-errors", { ...names, count: found.n, first: figure(found.error_one), second: figure(found.error_other) }));
  if (typeof found.p === "number") said.push(say("by-chance", { share: found.p < 1e-4 ? "< 0.01%" : percent(found.p) }));
  return html`${said.map((sentence) => html`<p>${sentence}</p>`)}${found.kind&& hasOtherRecipe && html`<p class="quiet">${say("about-recipes")}</p>`}`;
}

/** @param {{rows: Row[], route: import("./route.js").Route}} props */
function Recipes({ rows, route }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  const since = rows.map((row) => `${row.id}${row.status}`).join();
  useEffect(() => {
    let isHere = true;
    ask(`/api/recipes?${rows.map((row) => `run=${row.id}`).join("&")}`).then((answer) => isHere && setFound(answer), () => undefined);
    return () => void (isHere = false);
  }, [since]);
  if (!found) return null;
  const search = html`<${Search} rows=${rows} settings=${found.settings} route=${route} />`;
  if (found.groups.length < 2) return search;
  const letter = (/** @type {number} */ place) => String.fromCharCode(65 + place);
  const values = { first: letter(0), second: letter(1), share: typeof found.p === "number" ? (found.p < 1e-4 ? "< 0.01%" : percent(found.p)) : "" };
  const head = [say("recipe"), say("seeds"), found.metric ? say(`figure-${found.metric}`) : say("result"), say("deviation"), say("runs")];
  return html`<section><h2>${say("recipes-over-seeds")}</h2>
    <p><strong>${say(`recipes-${found.verdict ?? "several"}`, values)}</strong></p>
    ${values.share && html`<p>${say("recipes-by-chance", values)}</p>`}
    <div class="scroll" tabindex="0" role="region" aria-label=${say("recipes-over-seeds")}>${table([
      head,
      ...found.groups.map((/** @type {any} */ group, /** @type {number} */ place) => [
        letter(place), group.seeds, metric(found.metric ?? "", group.mean), group.deviation === null ? "–" : metric(found.metric ?? "", group.deviation), group.names.join(", "),
      ]),
    ])}</div>
  </section>${search}`;
}
