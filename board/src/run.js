// One run: its result, where it is wrong, what was asked for, what happened, and what the user logged.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { table } from "./chart.js";
import { Doing } from "./doing.js";
import { exported, imageAddress } from "./offline.js";
import { address } from "./route.js";
import { cellAddress, Why } from "./samples.js";
import { ask, logs, refreshLogs, state } from "./store.js";
import { Heat, Square } from "./small.js";
import { duration, figure, metric, moment, percent, say, size, whole } from "./words.js";

const MOST_CELLS = 40; // classes of a confusion matrix that is shown whole
const MOST_PAIRS = 30;
const LATEST_IMAGES = 24;

/** @param {{route: import("./route.js").Route}} props */
export function RunView({ route }) {
  const row = state.rows.get(route.run);
  const [details, setDetails] = useState(/** @type {any} */ (null));
  const [, setCount] = useState(0);
  useEffect(() => {
    let isHere = true;
    if (row) {
      ask(`/api/runs/${row.id}`).then((found) => isHere && setDetails(found), () => undefined);
      refreshLogs([row.id]).then(() => isHere && setCount((count) => count + 1), () => undefined);
    }
    return () => void (isHere = false);
  }, [row, row?.status === "running" ? state.ticks : 0]);
  if (!state.isLoaded) return html`<p class="empty">${say("loading")}</p>`;
  if (!row) return html`<p class="empty">${say("no-such-run")}</p>`;
  if (row.status === "tensorboard") return html`<article class="run"><h1>${row.name}</h1><p>${say("tensorboard-about")}</p>
    <p class="actions"><a class="button" href=${address({ runs: row.id, low: "", high: "" }, "curves")}>${say("its-curves")}</a></p></article>`;
  const log = logs.get(row.id) ?? { history: [], values: [] };
  const problems = [...new Set([row.problem, ...(details?.problems ?? [])].filter(Boolean))];
  return html`<article class="run">
    <h1>${row.name} <span class=${`status ${row.status}`}>${say(`status-${row.status}`)}</span></h1>
    ${problems.map((problem) => html`<p class="problem" role="alert">${problem}</p>`)}
    <p>${sentence(row)}${row.status === "running" && timeLeft(row, log.history)}</p>
    <p class="actions"><a class="button" href=${address({ runs: row.id, low: "", high: "" }, "curves")}>${say("its-curves")}</a>
      ${!exported && ["interrupted", "unfinished", "failed"].includes(row.status) && html`<span>${say("resume-with")} <code>rushlight resume ${inShell(`${document.documentElement.dataset.folder}/${row.name}`)}</code></span>`}</p>
    ${!exported && html`<${Doing} key=${row.id} row=${row} details=${details} />`}
    <${Report} id=${row.id} report=${details?.report} calibration=${details?.calibration} thresholds=${details?.thresholds} route=${route} />
    <${Health} health=${details?.health} />
    <${Limit} limit=${details?.limit} />
    <${Media} id=${row.id} values=${log.values} />
    <${Events} history=${log.history} sessions=${details?.sessions} />
    <${Recipe} title=${say("recipe")} content=${details?.recipe} />
    <${Recipe} title=${say("environment")} content=${details?.environment} />
  </article>`;
}

/** Return a path as it is typed into a shell: a name may hold what a shell would execute. @param {string} path */
const inShell = (path) => (/^[\w./:\\-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);

/** @param {import("./store.js").Row} row */
function sentence(row) {
  const values = {
    model: row.model || "?", data: row.data || "?", done: row.epochs_done ?? 0, epochs: row.epochs ?? "?", time: duration(row.seconds), started: moment(row.started),
  };
  return row.status === "damaged" ? "" : say("run-sentence", values);
}

/**
 * How long the rest will take: of the last epochs, the mean, and two of its standard errors with the spread of what is left.
 * @param {import("./store.js").Row} row @param {import("./store.js").Line[]} history
 */
function timeLeft(row, history) {
  const seconds = history.filter((line) => line.kind === "epoch" && typeof line.seconds === "number").slice(-20).map((line) => Number(line.seconds));
  const left = (row.epochs ?? 0) - (row.epochs_done ?? 0);
  if (seconds.length < 2 || left < 1) return "";
  const mean = seconds.reduce((sum, one) => sum + one, 0) / seconds.length;
  const spread = Math.sqrt(seconds.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (seconds.length - 1));
  const off = 2 * spread * Math.sqrt(left + left ** 2 / seconds.length);
  return say("time-left", { time: duration(left * mean), low: duration(Math.max(0, left * mean - off)), high: duration(left * mean + off) });
}

/** What a step spends its time on. @param {{limit: any}} props */
function Limit({ limit }) {
  if (!limit) return null;
  return html`<section><h2>${say("limit")}</h2><p>${limit.sentence}</p><p>${say("limit-step", { time: figure(limit.step_seconds * 1000) })} ${limit.parts.map((/** @type {[string, number]} */ [name, share]) => `${name} ${percent(share)}`).join(", ")}</p></section>`;
}

// ── the report ────────────────────────────────────────────────────────────────────────────────────────────

/** @param {{id: string, report: any, calibration: any, thresholds: any, route: import("./route.js").Route}} props */
function Report({ id, report, calibration, thresholds, route }) {
  if (!report) return html`<section><h2>${say("report")}</h2><p>${say("no-report")}</p></section>`;
  const figures = ["accuracy", "loss", "mae", "rmse", "r2"].filter((name) => typeof report[name] === "number");
  const [low, high] = report.accuracy_interval;
  return html`<section><h2>${say("report")}</h2>
    <p>${say("report-of", { count: report.n })}</p>
    <dl class="figures">${figures.map((name) => html`<div><dt>${say(`figure-${name}`)}</dt><dd>${metric(name, report[name])}
      ${name === "accuracy" && low !== undefined && html` <small>${say("interval", { low: percent(low), high: percent(high) })}</small>`}</dd></div>`)}</dl>
    <${Confusion} report=${report} />
    ${report.confusion.length > 0 && html`<${Why} id=${id} names=${report.classes.map((/** @type {any} */ one) => one.name)} route=${route} otherwise=${html`<${MostWrong} report=${report} />`} />`}
    <${Calibration} tenths=${calibration} />
    <${Thresholds} found=${thresholds} name=${report.classes[1]?.name} />
    ${report.classes.length > 0 && html`<h3>${say("classes")}</h3>
      <div class="scroll" tabindex="0" role="region" aria-label=${say("classes")}>${table([
        [say("class"), say("samples"), say("figure-precision"), say("figure-recall"), say("figure-f1")],
        ...report.classes.map((/** @type {any} */ one) => [one.name, whole(one.n ?? 0), percent(one.precision), percent(one.recall), percent(one.f1)]),
      ])}</div>`}
    ${report.confusion.length === 0 && html`<${MostWrong} report=${report} />`}
  </section>`;
}

/** @param {{report: any}} props */
function Confusion({ report }) {
  /** @type {number[][]} */
  const counts = report.confusion;
  if (!counts.length) return null;
  const names = report.classes.map((/** @type {any} */ one) => one.name);
  const pairs = counts
    .flatMap((line, truth) => line.map((count, predicted) => ({ truth, predicted, count })))
    .filter(({ truth, predicted, count }) => truth !== predicted && count)
    .sort((a, b) => b.count - a.count);
  const most = Math.max(1, ...pairs.map(({ count }) => count));
  const totals = counts.map((line) => line.reduce((sum, count) => sum + count, 0));
  const said = pairs.length ? say("most-confused", { count: pairs[0].count, truth: names[pairs[0].truth], predicted: names[pairs[0].predicted] }) : say("none-confused");
  const cell = (/** @type {number} */ count, /** @type {number} */ truth, /** @type {number} */ predicted) => {
    const share = truth === predicted ? count / Math.max(1, totals[truth]) : count / most;
    return html`<td class=${truth === predicted ? "right" : "wrong"} style=${{ "--share": `${Math.round(count ? 8 + 47 * share : 0)}%` }}
      title=${say("confused-cell", { count, truth: names[truth], predicted: names[predicted] })}>${count ? html`<a href=${cellAddress(truth, predicted)}>${count}</a>` : html`<span class="zero">0</span>`}</td>`;
  };
  return html`<h3>${say("confusion")}</h3><p>${said} ${say("confusion-caption")} ${say("confusion-opens")}</p>
    ${names.length > MOST_CELLS
      ? table([[say("true-class"), say("predicted-as"), say("samples")], ...pairs.slice(0, MOST_PAIRS).map(({ truth, predicted, count }) => [names[truth], names[predicted], html`<a href=${cellAddress(truth, predicted)}>${whole(count)}</a>`])])
      : html`<div class="scroll" tabindex="0" role="region" aria-label=${say("confusion")}><table class="confusion">
          <thead><tr><td></td>${names.map((/** @type {string} */ name) => html`<th scope="col"><span>${name}</span></th>`)}</tr></thead>
          <tbody>${counts.map((line, truth) => html`<tr><th scope="row">${names[truth]}</th>${line.map((count, predicted) => cell(count, truth, predicted))}</tr>`)}</tbody>
        </table></div>`}`;
}

/** How sure the model is, against how often it is right. @param {{tenths: {sure: number, right: number, n: number}[] | null | undefined}} props */
function Calibration({ tenths }) {
  if (!tenths?.length) return null;
  const total = tenths.reduce((sum, { n }) => sum + n, 0);
  const mean = (/** @type {"sure" | "right"} */ what) => tenths.reduce((sum, one) => sum + one[what] * one.n, 0) / total;
  const [sure, right] = [mean("sure"), mean("right")];
  const gap = tenths.reduce((sum, one) => sum + Math.abs(one.sure - one.right) * one.n, 0) / total;
  const verdict = gap < 0.02 ? "good" : sure > right ? "over" : "under";
  return html`<h3>${say("calibration")}</h3><p>${say(`calibration-${verdict}`, { sure: percent(sure), right: percent(right), gap: percent(gap) })}</p>
    <${Square} points=${tenths.map((one) => [one.sure, one.right])} label=${say("calibration")} x=${say("calibration-sure")} y=${say("calibration-right")} />
    <details><summary>${say("as-table")}</summary><div class="scroll" tabindex="0" role="region" aria-label=${say("calibration")}>${table([
      [say("calibration-sure"), say("calibration-right"), say("samples")],
      ...tenths.map((one) => [percent(one.sure), percent(one.right), whole(one.n)]),
    ])}</div></details>`;
}

/** Of two classes: what each threshold would find, and what it would cost. @param {{found: any, name: string | undefined}} props */
function Thresholds({ found, name }) {
  if (!found || !name) return null;
  const said = say("thresholds-about", { name, area: figure(found.area), precision: figure(found.precision), share: percent(found.share) });
  const some = found.pr.filter((/** @type {unknown} */ _, /** @type {number} */ place) => place % Math.ceil(found.pr.length / 20) === 0);
  return html`<h3>${say("thresholds")}</h3><p>${said}</p><div class="media">
    <${Square} points=${found.roc} label=${say("roc-label", { area: figure(found.area) })} x=${say("fall-out")} y=${say("figure-recall")} />
    <${Square} points=${found.pr} label=${say("pr-label", { precision: figure(found.precision) })} x=${say("figure-recall")} y=${say("figure-precision")} level=${found.share} /></div>
    <details><summary>${say("as-table")}</summary>${table([[say("figure-recall"), say("figure-precision")], ...some.map((/** @type {number[]} */ [recall, precision]) => [percent(recall), percent(precision)])])}</details>`;
}

/** A figure of each layer at each observation. @param {{health: any, what: "change" | "gradient"}} props */
function Course({ health, what }) {
  const { heat, layers } = health;
  const kept = layers.flatMap((/** @type {any} */ _, /** @type {number} */ place) => (heat[what][place].some((/** @type {unknown} */ one) => typeof one === "number") ? [place] : []));
  if (heat.steps.length < 3 || !kept.length) return null;
  const all = kept.flatMap((/** @type {number} */ row) => heat[what][row].flatMap((/** @type {number | null} */ value, /** @type {number} */ column) => (typeof value === "number" ? [{ row, column, value }] : [])));
  const most = all.reduce((/** @type {any} */ one, /** @type {any} */ other) => (other.value > one.value ? other : one));
  const shown = what === "change" ? percent : figure;
  const told = (/** @type {number} */ row, /** @type {number} */ column) => say("course-cell", { name: layers[row].name, step: whole(heat.steps[column]), value: shown(heat[what][row][column]) });
  const said = say(`course-about-${what}`, { first: whole(heat.steps[0]), last: whole(heat.steps.at(-1)), name: layers[most.row].name, value: shown(most.value), step: whole(heat.steps[most.column]) });
  return html`<h3>${say(`course-${what}`)}</h3><p>${said}</p><${Heat} label=${said} rows=${kept.map((/** @type {number} */ row) => layers[row].name)} values=${kept.map((/** @type {number} */ row) => heat[what][row])}
    share=${(/** @type {number} */ value) => Math.min(1, Math.max(0.04, (Math.log10(value || 1e-9) + 5) / 5))} title=${(/** @type {number} */ row, /** @type {number} */ column) => told(kept[row], column)} />`;
}

/** @param {{health: any}} props */
function Health({ health }) {
  if (!health) return null;
  const heads = ["layer", "layer-kind", "layer-dead", "layer-zero", "layer-mean", "layer-std", "layer-weight", "layer-change", "layer-gradient"];
  const share = (/** @type {number | null} */ value) => (value === null ? "–" : percent(value));
  return html`<section><h2>${say("health")}</h2>
    ${health.findings.length
      ? html`<ul>${health.findings.map((/** @type {any} */ one) => html`<li>${say(`health-${one.what}`, { name: one.name, kind: one.kind, share: percent(one.share), step: whole(one.since) })}</li>`)}</ul>`
      : html`<p>${say("health-good", { count: health.layers.length })}</p>`}
    <p class="quiet">${say("health-about", { step: whole(health.step), count: health.samples, steps: whole(health.steps) })}</p>
    <details><summary>${say("as-table")}</summary><div class="scroll" tabindex="0" role="region" aria-label=${say("health")}>${table([
      heads.map((name) => say(name)),
      ...health.layers.map((/** @type {any} */ one) => [one.name, one.kind, share(one.dead), share(one.zero), figure(one.mean), figure(one.std), figure(one.weight), share(one.change), figure(one.gradient)]),
    ])}</div></details>
    <${Course} health=${health} what="change" /><${Course} health=${health} what="gradient" />
  </section>`;
}

/** @param {string} key */
const headOf = (key) => (say(`wrong-${key}`) === `wrong-${key}` ? key.replaceAll("_", " ") : say(`wrong-${key}`));

/** @param {{report: any}} props */
function MostWrong({ report }) {
  /** @type {Record<string, any>[]} */
  const wrong = report.most_wrong;
  if (!wrong.length) return null;
  const name = (/** @type {unknown} */ value) => (value === null || value === undefined ? "–" : typeof value === "number" ? figure(value) : Array.isArray(value) ? value.map(figure).join(", ") : String(value));
  const heads = Object.keys(wrong[0]);
  const isNumber = heads.includes("error");
  const title = say(isNumber ? "largest-errors" : "most-wrong");
  return html`<h3>${title}</h3><p>${say("most-wrong-about")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${title}>${table([
      heads.map((key) => headOf(isNumber && (key === "true" || key === "predicted") ? `${key}-value` : key)), ...wrong.map((one) => heads.map((key) => (/confidence|probability/.test(key) ? percent(one[key]) : name(one[key])))),
    ])}</div>`;
}

// ── what was logged, what happened, what was asked for ────────────────────────────────────────────────────

/** @param {{id: string, values: import("./store.js").Line[]}} props */
function Media({ id, values }) {
  const [isAll, setAll] = useState(false);
  const logged = values.flatMap((line) => Object.entries(typeof line.values === "object" && line.values ? line.values : {}).map(([name, value]) => ({ name, value, line })));
  const images = logged.filter(({ value }) => typeof value?.media === "string").reverse();
  const texts = logged.filter(({ value }) => typeof value === "string").reverse();
  if (!images.length && !texts.length) return null;
  const shown = isAll ? images : images.slice(0, LATEST_IMAGES);
  const file = (/** @type {any} */ value) => value.media.replace(/^media\//, "");
  return html`<section><h2>${say("logged")}</h2>
    <div class="media">${shown.map(({ name, value, line }) => html`<figure key=${value.media}>
      <img loading="lazy" src=${imageAddress(id, file(value))} width=${Math.max(96, Number(value.width) || 96)} alt=${say("image-alt", { name, epoch: line.epoch })} />
      <figcaption>${name} <small>${say("epoch-number", { epoch: line.epoch })}</small></figcaption></figure>`)}</div>
    ${shown.length < images.length && html`<button type="button" onClick=${() => setAll(true)}>${say("show-all-images", { count: images.length })}</button>`}
    ${texts.length > 0 && html`<dl class="texts">${texts.slice(0, 200).map(({ name, value, line }) => html`<div><dt>${name} <small>${say("epoch-number", { epoch: line.epoch })}</small></dt><dd>${value}</dd></div>`)}</dl>`}
  </section>`;
}

/** @param {{history: import("./store.js").Line[], sessions: any[] | null}} props */
function Events({ history, sessions }) {
  const events = history.filter((line) => line.kind === "event");
  const notices = (sessions ?? []).flatMap((session) => [...(session.notices ?? []), ...(session.message ? [session.message] : []), ...(session.differences ?? [])].map(String));
  if (!events.length && !sessions?.length) return null;
  return html`<section><h2>${say("events")}</h2>
    ${notices.length > 0 && html`<ul>${notices.map((notice) => html`<li>${notice}</li>`)}</ul>`}
    ${sessions && sessions.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${say("processes")}>${table([
      [say("began"), say("ended"), say("from-step"), say("to-step"), say("end"), say("process")],
      ...sessions.map((one) => [moment(one.began), moment(one.ended), value(one.from_step), value(one.step), say(`status-${one.end}`), one.host === undefined ? value(one.pid) : say("process-on", { pid: String(one.pid ?? "?"), host: value(one.host) })]),
    ])}</div>`}
    ${events.length > 0 && html`<ol class="events">${events.map((line) => html`<li><time>${moment(line.time)}</time> ${say("at-step-number", { step: value(line.step) })}: <b>${String(line.event)}</b> ${line.message ? String(line.message) : ""}</li>`)}</ol>`}
  </section>`;
}

/** @param {unknown} given */
const value = (given) => (typeof given === "number" ? whole(given) : given === null || given === undefined ? "–" : String(given));

/** @param {{title: string, content: Record<string, unknown> | null | undefined}} props */
function Recipe({ title, content }) {
  if (!content) return null;
  return html`<section><h2>${title}</h2><dl class="recipe">
    ${Object.entries(content).filter(([, entry]) => !isNothing(entry)).map(([name, entry]) => html`<div><dt>${name.replace(/_bytes$/, "").replaceAll("_", " ")}</dt><dd>${shownEntry(name, entry)}</dd></div>`)}
  </dl></section>`;
}

/** @param {unknown} entry */
const isNothing = (entry) => entry === null || entry === undefined || entry === "" || JSON.stringify(entry) === "[]" || JSON.stringify(entry) === "{}";

/** An entry of the recipe or the environment: sizes in units, sentences as a list, a command as it is typed. @param {string} name @param {unknown} entry */
function shownEntry(name, entry) {
  if (name.endsWith("_bytes") && typeof entry === "number") return size(entry);
  if (name === "command" && Array.isArray(entry)) return html`<code>${entry.map((one) => inShell(String(one))).join(" ")}</code>`;
  const isSentences = Array.isArray(entry) && entry.some((one) => /[.。!?]$/.test(String(one)));
  return isSentences ? html`<ul>${/** @type {unknown[]} */ (entry).map((one) => html`<li>${String(one)}</li>`)}</ul>` : described(entry);
}

/** An entry in words: "SGD (lr 0.001, momentum 0.9)". @param {unknown} entry @returns {string} */
export function described(entry) {
  if (Array.isArray(entry)) return entry.map(described).join(", ");
  if (entry && typeof entry === "object") {
    const { name, arguments: settings, ...others } = /** @type {Record<string, unknown>} */ (entry);
    const all = Object.entries({ ...others, ...(settings && typeof settings === "object" ? settings : {}) });
    const said = all.filter(([, one]) => one !== false && !isNothing(one)).map(([key, one]) => `${key} ${described(one)}`).join(", ");
    return name ? (said ? `${name} (${said})` : String(name)) : said;
  }
  if (typeof entry === "string" && /^[0-9a-f]{40,}$/.test(entry)) return `${entry.slice(0, 12)}…`; // a digest: its beginning tells it from others
  return typeof entry === "number" && !Number.isInteger(entry) ? figure(entry) : String(entry);
}
