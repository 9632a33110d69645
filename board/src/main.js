// The page: what stands around every view, and the view that the address names.

import "uplot/dist/uPlot.min.css";
import "./board.css";
import { html } from "htm/preact";
import { Component, render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { CompareView } from "./compare.js";
import { CurvesView } from "./curves.js";
import { exported } from "./offline.js";
import { address, change, route } from "./route.js";
import { RunView } from "./run.js";
import { RunsView } from "./runs.js";
import { listen, poll, state } from "./store.js";
import { language, loadWords, say } from "./words.js";

const LANGUAGES = { en: "English", zh: "简体中文" };
const THEMES = ["", "light", "dark"];
const page = document.documentElement.dataset;

/** Keeps what a damaged file brings about in one view. */
class Fence extends Component {
  /** @param {Error} error */
  static getDerivedStateFromError = (error) => ({ error });
  render() {
    const { error } = /** @type {{error?: Error}} */ (this.state);
    return error ? html`<p class="problem" role="alert">${say("view-failed", { reason: error.message })}</p>` : this.props.children;
  }
}

function Board() {
  const [, setCount] = useState(0);
  useEffect(() => {
    const again = () => setCount((count) => count + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const stop = listen(again);
    addEventListener("hashchange", again);
    dark.addEventListener("change", again);
    void poll();
    return () => {
      stop();
      removeEventListener("hashchange", again);
      dark.removeEventListener("change", again);
    };
  }, []);
  const now = route();
  if (now.get("theme")) page.theme = now.get("theme");
  else delete page.theme;
  const wanted = wantedLanguage();
  useEffect(() => {
    if (wanted !== language) loadWords(wanted).then(() => setCount((count) => count + 1), () => undefined);
  }, [wanted]);
  const View = { runs: RunsView, curves: CurvesView, compare: CompareView, run: RunView }[now.view] ?? RunsView;
  const name = { runs: say("runs"), curves: say("curves"), compare: say("compare"), run: state.rows.get(now.run)?.name ?? say("run") }[now.view] ?? say("runs");
  useEffect(() => void (document.title = `${name} · ${shortFolder}`), [name]);
  return html`<header>
      <a class="skip" href="#main" onClick=${skip}>${say("skip")}</a>
      <strong>Rushlight</strong> <span class="folder" title=${page.folder}>${shortFolder}</span>
      <nav aria-label=${say("views")}>
        ${(exported ? ["runs", "curves"] : ["runs", "curves", "compare"]).map((view) => html`<a href=${address({}, view)} aria-current=${now.view === view ? "page" : undefined}>${say(view)}</a>`)}
      </nav>
      <label class="choice"><span class="hidden">${say("language")}</span><select onChange=${(/** @type {Event} */ event) => change({ lang: /** @type {HTMLSelectElement} */ (event.currentTarget).value })}>
        ${Object.entries(LANGUAGES).map(([code, word]) => html`<option value=${code} lang=${code} selected=${language === code}>${word}</option>`)}
      </select></label>
      <label class="choice"><span class="hidden">${say("theme")}</span><select onChange=${(/** @type {Event} */ event) => change({ theme: /** @type {HTMLSelectElement} */ (event.currentTarget).value })}>
        ${THEMES.map((theme) => html`<option value=${theme} selected=${now.get("theme") === theme}>${say(`theme-${theme || "system"}`)}</option>`)}
      </select></label>
    </header>
    ${state.trouble && html`<p class="problem" role="alert">${say(`trouble-${state.trouble}`)}</p>`}
    <main id="main" tabindex="-1"><${Fence} key=${`${now.view}/${now.run}`}><${View} route=${now} /><//></main>`;
}

/** @param {Event} event */
function skip(event) {
  event.preventDefault(); // the address holds the view
  document.getElementById("main")?.focus();
}

function wantedLanguage() {
  const given = route().get("lang");
  return given in LANGUAGES ? given : (page.language ?? "en");
}

const parts = (page.folder ?? "").split(/[\\/]/).filter(Boolean);
const shortFolder = parts.length > 2 ? `…/${parts.slice(-2).join("/")}` : parts.join("/");
page.language = document.documentElement.lang in LANGUAGES ? document.documentElement.lang : "en";
if (exported && !location.hash) history.replaceState(null, "", `#/run/${exported.answers["/api/runs"].rows[0].id}`);
const root = /** @type {HTMLElement} */ (document.getElementById("board"));
loadWords(wantedLanguage()).then(
  () => render(html`<${Board} />`, root),
  () => void (root.textContent = page.gone ?? ""),
);
