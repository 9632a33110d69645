// Why is it wrong? The test samples behind a report: those of one cell of the confusion matrix, or of a list, as pictures or rows.

import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { SaveTable, table } from "./chart.js";
import { exported } from "./offline.js";
import { address } from "./route.js";
import { ask } from "./store.js";
import { figure, percent, say, whole } from "./words.js";

const LISTS = ["wrong", "hardest", "forgotten", "suspects", "twins"];
const MOST = 24; // samples shown at once
const LINE = { width: 132, height: 30 }; // of a probability over the epochs, in pixels
const MOST_PARTS = 8; // columns of which is said what the answer loses without them
const MOST_TEXT = 12; // numbers or columns shown of a sample that is no picture

/**
 * @typedef {{index: number, name: string | null, truth: number, predicted: number, confidence: number, probabilities: number[]}} Sample
 * @typedef {{count: number, has_epochs: boolean, epochs: number[], samples: Sample[]}} Found
 * @typedef {{kind?: string, items?: any[], choices?: [string, number][][], error?: string}} Shown
 */

/** The address of the samples of a cell. @param {number} truth @param {number} predicted */
export const cellAddress = (truth, predicted) => address({ list: "cell", cell: `${truth}-${predicted}`, from: "" });

/** @param {{id: string, names: string[], route: import("./route.js").Route, otherwise: any}} props */
export function Why({ id, names, route, otherwise }) {
  const list = LISTS.includes(route.get("list")) || route.get("list") === "cell" ? route.get("list") : "wrong";
  const [truth, predicted] = route.get("cell").split("-").map(Number);
  const from = Math.max(0, parseInt(route.get("from"), 10) || 0);
  const query = `list=${list}${list === "cell" ? `&truth=${truth}&predicted=${predicted}` : ""}`;
  const [found, setFound] = useState(/** @type {{of: string, content: Found | null}} */ ({ of: "", content: null }));
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const isFirst = useRef(true);
  const key = `${id}?${query}&start=${from}`;
  useEffect(() => {
    let isHere = true;
    if (list !== "twins") ask(`/api/runs/${id}/samples?${query}&start=${from}`).then((content) => isHere && setFound({ of: key, content }), () => isHere && setFound({ of: key, content: null }));
    return () => void (isHere = false);
  }, [key]);
  useEffect(() => {
    if (!isFirst.current) box.current?.scrollIntoView({ block: "nearest" });
    isFirst.current = false;
  }, [query]);
  const name = (/** @type {number} */ place) => names[place] ?? String(place);
  if (list !== "twins" && found.of === key && !found.content) return otherwise;
  const all = () => ask(`/api/runs/${id}/samples?${query}&most=all`).then((content) => rowsOf(content, name));
  const title = list === "cell" ? say("cell-title", { truth: name(truth), predicted: name(predicted) }) : say(`list-${list}`);
  const { content } = found;
  return html`<section ref=${box} class="why"><h3>${say("why")}</h3>
    <nav class="tabs" aria-label=${say("why")}>${LISTS.map((one) => html`<a href=${address({ list: one, cell: "", from: "" })} aria-current=${one === list ? "true" : undefined}>${say(`list-${one}`)}</a>`)}</nav>
    ${list === "twins"
      ? html`<${Twins} id=${id} />`
      : html`${list === "cell" && html`<h4>${title}</h4>`}<p>${say(`list-${list}-about`)}</p>
        ${content && html`<p role="status">${counted(content, from, list)}</p>
          <${Cards} id=${id} samples=${content.samples} epochs=${content.epochs} name=${name} isStale=${found.of !== key} />
          <p class="actions">
            ${from > 0 && html`<a class="button faint" href=${address({ from: Math.max(0, from - MOST) || "" })}>${say("samples-before")}</a>`}
            ${from + MOST < content.count && !exported && html`<a class="button faint" href=${address({ from: from + MOST })}>${say("samples-after")}</a>`}
            ${content.count > 0 && !exported && html`<${SaveTable} name=${title} rows=${all} />`}
          </p>`}`}
  </section>`;
}

/** @param {Found} content @param {number} from @param {string} list */
function counted(content, from, list) {
  if (!content.count && !content.has_epochs && list !== "wrong" && list !== "cell") return say("no-epochs-kept");
  if (!content.count) return say("no-such-samples");
  if (content.count <= MOST) return say("samples-count", { count: content.count });
  return say("samples-range", { first: whole(from + 1), last: whole(Math.min(from + MOST, content.count)), all: whole(content.count) });
}

/** @param {Found} content @param {(place: number) => string} name @returns {(string | number)[][]} */
const rowsOf = (content, name) => [
  [say("wrong-index"), say("wrong-name"), say("wrong-true"), say("wrong-predicted"), say("wrong-probability"), say("probability-of-truth")],
  ...content.samples.map((one) => [one.index, one.name ?? "", name(one.truth), name(one.predicted), one.confidence, one.probabilities.at(-1) ?? ""]),
];

/** Read the samples themselves. @param {string} id @param {number[]} indices @returns {Shown | null} */
function useShown(id, indices) {
  const [shown, setShown] = useState(/** @type {{of: string, content: Shown | null}} */ ({ of: "", content: null }));
  const key = `${id}/shown?${indices.map((index) => `index=${index}`).join("&")}`;
  useEffect(() => {
    let isHere = true;
    if (indices.length) ask(`/api/runs/${key}`).then((content) => isHere && setShown({ of: key, content }), () => undefined);
    return () => void (isHere = false);
  }, [key]);
  return shown.of === key ? shown.content : null;
}

/** @param {{id: string, samples: Sample[], epochs: number[], name: (place: number) => string, isStale: boolean}} props */
function Cards({ id, samples, epochs, name, isStale }) {
  const shown = useShown(id, samples.map(({ index }) => index));
  const isReady = shown?.items?.length === samples.length;
  return html`${shown?.error && html`<p class="quiet">${say("samples-not-shown", { reason: shown.error })}</p>`}
    ${!shown && samples.length > 0 && html`<p class="quiet">${say("samples-loading")}</p>`}
    <ul class=${isStale ? "cards stale" : "cards"}>${samples.map((one, place) => html`<li key=${one.index}>
      ${isReady && html`<${Picture} kind=${String(shown.kind)} item=${shown.items?.[place]} label=${say("sample-alt", { index: one.index, truth: name(one.truth), predicted: name(one.predicted) })} />`}
      <div><b>${one.name ?? `#${one.index}`}</b></div>
      <div>${one.truth === one.predicted ? say("sample-right", { truth: name(one.truth), share: percent(one.confidence) }) : say("sample-wrong", { truth: name(one.truth), predicted: name(one.predicted), share: percent(one.confidence) })}</div>
      ${isReady && shown?.choices && second(shown.choices[place], name(one.predicted))}
      ${one.probabilities.length > 1 && html`<${Life} probabilities=${one.probabilities} epochs=${epochs} />`}
      ${isReady && shown?.choices && !exported && html`<${Closer} id=${id} index=${one.index} kind=${String(shown.kind)} item=${shown.items?.[place]} />`}
    </li>`)}</ul>`;
}

/** The second choice, where the model is still of the same mind as in its last test. @param {[string, number][]} choices @param {string} predicted */
const second = (choices, predicted) => choices[0]?.[0] === predicted && choices[1] && html`<div class="quiet">${say("sample-second", { class: choices[1][0], share: percent(choices[1][1]) })}</div>`;

/** What the answer hangs on, and the training samples that the model takes for nearest; read when it is opened. @param {{id: string, index: number, kind: string, item: any}} props */
function Closer({ id, index, kind, item }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  const toggle = (/** @type {Event} */ event) => {
    if (!found && /** @type {HTMLDetailsElement} */ (event.currentTarget).open) ask(`/api/runs/${id}/shown?why=1&index=${index}`).then(setFound, (error) => setFound({ error: String(error.message) }));
  };
  return html`<details class="closer" onToggle=${toggle}><summary aria-label=${say("closer-of", { index })}>${say("closer")}</summary>
    ${!found && html`<p class="quiet" role="status">${say("closer-loading")}</p>`}
    ${found?.error && html`<p class="quiet" role="status">${say("samples-not-shown", { reason: found.error })}</p>`}
    ${found && !found.error && html`
      <ol class="choices">${found.choices.map((/** @type {[string, number]} */ [name, share]) => html`<li>${name} <span class="quiet">${percent(share)}</span></li>`)}</ol>
      <${Drops} found=${found} kind=${kind} item=${item} />
      <p>${say("closer-similar", { of: whole(found.of) })}</p>
      <ul class="similar">${found.similar.map((/** @type {any} */ one, /** @type {number} */ place) => html`<li>
        <${Picture} kind=${String(found.shown.kind)} item=${found.shown.items[place]} label=${say("similar-alt", { index: one.index, class: one.class })} />
        ${one.class} <span class="quiet">#${one.index} · ${figure(one.cosine)}</span></li>`)}</ul>`}
  </details>`;
}

/** How far the likeliest class's share falls without each part. @param {{found: any, kind: string, item: any}} props */
function Drops({ found, kind, item }) {
  /** @type {number[]} */
  const drops = found.drops;
  if (!drops.length) return null;
  const values = { class: found.choices[0][0], from: percent(found.choices[0][1]), to: percent(found.choices[0][1] - Math.max(...drops)) };
  if (Math.max(...drops) < 0.005) return html`<p>${say("drops-none", values)}</p>`;
  const most = Math.max(...drops.map(Math.abs));
  if (found.grid) {
    const side = 100 / found.grid;
    return html`<p>${say("drops-image", values)}</p><div class="covered"><img src=${`data:image/png;base64,${item}`} alt=${say("drops-image", values)} />
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">${drops.map((drop, place) => drop > 0 && html`<rect x=${(place % found.grid) * side} y=${Math.floor(place / found.grid) * side} width=${side} height=${side} opacity=${((0.75 * drop) / most).toFixed(2)} />`)}</svg></div>`;
  }
  const named = drops.map((drop, place) => ({ drop, name: kind === "table" ? item[place]?.[0] : `#${place + 1}` })).sort((a, b) => Math.abs(b.drop) - Math.abs(a.drop)).slice(0, MOST_PARTS);
  return html`<p>${say("drops-columns", values)}</p><dl class="row">${named.map(({ name, drop }) => html`<div><dt>${name}</dt><dd>${drop > 0 ? "−" : "+"}${percent(Math.abs(drop))}</dd></div>`)}</dl>`;
}

/** A sample: a picture, a row of a table, or numbers. @param {{kind: string, item: any, label: string}} props */
function Picture({ kind, item, label }) {
  if (kind === "image") return html`<img src=${`data:image/png;base64,${item}`} alt=${label} />`;
  if (kind === "table") return html`<dl class="row">${item.slice(0, MOST_TEXT).map((/** @type {[string, unknown]} */ [column, value]) => html`<div><dt>${column}</dt><dd>${typeof value === "number" ? figure(value) : (value ?? "–")}</dd></div>`)}</dl>`;
  if (kind === "array") return html`<p class="numbers">${item.slice(0, MOST_TEXT).map(figure).join(", ")}${item.length > MOST_TEXT ? " …" : ""}</p>`;
  return null;
}

/** The probability of the true class over the epochs. @param {{probabilities: number[], epochs: number[]}} props */
function Life({ probabilities, epochs }) {
  const step = LINE.width / Math.max(1, probabilities.length - 1);
  const points = probabilities.map((p, place) => `${(place * step).toFixed(1)},${((1 - p) * (LINE.height - 2) + 1).toFixed(1)}`).join(" ");
  const ends = { first: percent(probabilities[0]), last: percent(probabilities.at(-1)), low: percent(Math.min(...probabilities)), high: percent(Math.max(...probabilities)), from: epochs[0], to: epochs.at(-1) };
  return html`<svg class="life" width=${LINE.width} height=${LINE.height} role="img" aria-label=${say("life", ends)}><title>${say("life", ends)}</title>
    <line x1="0" x2=${LINE.width} y1=${LINE.height / 2} y2=${LINE.height / 2} /><polyline points=${points} /></svg>
    <div class="quiet">${say("life-short", ends)}</div>`;
}

/** Samples that are in the training and in the test split. @param {{id: string}} props */
function Twins({ id }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let isHere = true;
    setFound(null);
    ask(`/api/runs/${id}/shown?twins=1`).then((content) => isHere && setFound(content), () => undefined);
    return () => void (isHere = false);
  }, [id]);
  const pairs = found?.twins?.pairs ?? [];
  const head = [say("twin-test"), say("twin-train")];
  const rows = () => [head, ...pairs.map((/** @type {number[]} */ [train, test]) => [test, train])];
  return html`<p>${say("list-twins-about")}</p>
    <p role="status">${!found ? say("samples-loading") : found.error ? say("samples-not-shown", { reason: found.error }) : !found.twins ? say("twins-unknown") : found.twins.count ? say("twins-count", { count: found.twins.count, of: whole(found.twins.of) }) : say("twins-none", { of: whole(found.twins.of) })}</p>
    ${pairs.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${say("list-twins")}>${table(rows().slice(0, MOST + 1))}</div>
      <p class="actions"><${SaveTable} name=${say("list-twins")} rows=${rows} /></p>`}`;
}
