// The view is in the address: what is shown, which runs, which axis, how far it is zoomed.

/** @typedef {{view: string, run: string, get: (name: string) => string, runs: string[]}} Route */

/** Return the view that the address names. @returns {Route} */
export function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "runs", run = ""] = path.split("/");
  const given = new URLSearchParams(query ?? "");
  return {
    view: view || "runs",
    run,
    get: (name) => given.get(name) ?? "",
    runs: (given.get("runs") ?? "").split(",").filter(Boolean),
  };
}

/**
 * Return an address: this one with other values ("" removes one), for another view where one is given.
 * @param {Record<string, string | number | null | undefined>} changes @param {string} [path]
 */
export function address(changes, path) {
  const [here, query] = location.hash.replace(/^#\/?/, "").split("?");
  const given = new URLSearchParams(query ?? "");
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) given.delete(name);
    else given.set(name, String(value));
  }
  const text = given.toString().replaceAll("%2C", ",");
  return `#/${path ?? (here || "runs")}${text ? `?${text}` : ""}`;
}

/** Change the address without a step in the browser's history. @param {Record<string, string | number | null | undefined>} changes */
export function change(changes) {
  history.replaceState(null, "", address(changes));
  dispatchEvent(new HashChangeEvent("hashchange"));
}
