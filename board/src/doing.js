// What can be done with a run: stop it, note something, give it another name, delete it.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { address } from "./route.js";
import { poll, post } from "./store.js";
import { say } from "./words.js";

const PATIENCE_MS = 20000; // without an answer to a request to stop

/** @typedef {import("./store.js").Row} Row */

/** @param {{row: Row, details: any}} props */
export function Doing({ row, details }) {
  const [trouble, setTrouble] = useState("");
  const change = async (/** @type {string} */ what, /** @type {Record<string, unknown>} */ content) => {
    const found = await post(`/api/runs/${row.id}/do/${what}`, content).catch((error) => ({ error: String(error.message ?? error) }));
    setTrouble(found.error ?? "");
    void poll();
    return found.error ? null : found;
  };
  return html`${row.status === "running" && html`<${Stop} details=${details} change=${change} />`}
    <${Begin} row=${row} change=${change} />
    <details><summary>${say("note-and-tags")}${(row.tags ?? []).map((tag) => html` <span class="tag">${tag}</span>`)}</summary>
      ${details && html`<${Note} note=${details.note ?? { note: "", tags: [] }} change=${change} />`}</details>
    ${row.status !== "running" && html`<details><summary>${say("rename-or-delete")}</summary><${Rename} row=${row} change=${change} /><${Delete} row=${row} change=${change} /></details>`}
    ${trouble && html`<p class="problem" role="alert">${say("not-done", { reason: trouble })}</p>`}`;
}

/** @param {{details: any, change: (what: string, content: Record<string, unknown>) => Promise<any>}} props */
function Stop({ details, change }) {
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    if (details?.is_asked_to_stop && !asked) setAsked(Date.now());
  }, [details?.is_asked_to_stop]);
  const isOpen = details?.is_asked_to_stop;
  const isLate = isOpen && asked && Date.now() - asked > PATIENCE_MS;
  const stop = async () => (await change("stop", {})) && setAsked(Date.now());
  return html`<p class="actions"><button type="button" disabled=${asked > 0} onClick=${stop}>${say("stop")}</button>
    <span role="status">${asked ? say(isLate ? "stop-no-answer" : isOpen || Date.now() - asked < 1500 ? "stop-asked" : "stop-noticed") : say("stop-about")}</span></p>`;
}

/** Go on with a run that stands still, or serve one that has ended. @param {{row: Row, change: (what: string, content: Record<string, unknown>) => Promise<any>}} props */
function Begin({ row, change }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [isAsked, setAsked] = useState(false);
  const what = ["interrupted", "unfinished", "failed"].includes(row.status) ? "resume" : row.status === "finished" ? "serve" : "";
  if (!what) return null;
  const begin = async () => {
    setAsked(true);
    setFound(await change(what, {}));
    setAsked(false);
  };
  return html`<p class="actions"><button type="button" disabled=${isAsked} onClick=${begin}>${say(what)}</button>
    <span role="status">${isAsked ? say("begins") : found?.address ? html`<a href=${found.address} target="_blank" rel="noopener">${say("served-at", { address: found.address })}</a>` : say(what === "serve" ? "serve-about" : "resume-about")}</span></p>`;
}

/** @param {{note: {note: string, tags: string[]}, change: (what: string, content: Record<string, unknown>) => Promise<any>}} props */
function Note({ note, change }) {
  const [isSaved, setSaved] = useState(false);
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
    const tags = String(given.get("tags")).split(/[,，]/).map((tag) => tag.trim()).filter(Boolean);
    setSaved((await change("note", { note: String(given.get("note")), tags })) !== null);
  };
  return html`<form class="note" onSubmit=${save} onInput=${() => setSaved(false)}>
    <label>${say("tags-hint")} <input name="tags" defaultValue=${note.tags.join(", ")} /></label>
    <label>${say("note")} <textarea name="note" rows="4" defaultValue=${note.note}></textarea></label>
    <p class="actions"><button>${say("save")}</button> <span role="status">${isSaved && say("saved")}</span></p>
  </form>`;
}

/** @param {{row: Row, change: (what: string, content: Record<string, unknown>) => Promise<any>}} props */
function Rename({ row, change }) {
  const rename = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const name = String(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)).get("name"));
    const found = name !== row.name && (await change("rename", { from: row.name, name }));
    if (found) location.hash = address({}, `run/${found.id}`);
  };
  return html`<form class="actions" onSubmit=${rename}><label>${say("new-name")} <input name="name" defaultValue=${row.name} required /></label> <button>${say("rename")}</button></form>`;
}

/** @param {{row: Row, change: (what: string, content: Record<string, unknown>) => Promise<any>}} props */
function Delete({ row, change }) {
  const [isAsked, setAsked] = useState(false);
  const remove = async () => (await change("delete", { name: row.name })) && (location.hash = address({}, "runs"));
  return isAsked
    ? html`<p class="problem">${say("delete-sure", { name: row.name })}</p><p class="actions"><button type="button" class="danger" onClick=${remove}>${say("delete-yes")}</button>
        <button type="button" autofocus onClick=${() => setAsked(false)}>${say("delete-no")}</button></p>`
    : html`<p class="actions"><button type="button" onClick=${() => setAsked(true)}>${say("delete")}</button></p>`;
}
