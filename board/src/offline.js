// In a page that was exported to one file, every answer stands in the file itself.

/**
 * @typedef {{words: Record<string, any>, answers: Record<string, any>, curves: Record<string, string>, media: Record<string, string>}} Exported
 */
const block = document.getElementById("exported");
/** @type {Exported | null} */
export const exported = block ? JSON.parse(block.textContent ?? "") : null;

/** The answer to a request for JSON; undefined where the file has none. @param {string} path */
export function exportedAnswer(path) {
  const [place] = path.split("?");
  return exported?.answers[path] ?? (place === "/api/runs" || place === "/api/logs" || place === "/api/recipes" ? exported?.answers[place] : undefined);
}

/** The bytes of the curves over an axis. @param {string} axis */
export function exportedCurves(axis) {
  const text = atob(exported?.curves[axis] ?? "");
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer;
}

/** The address of an image that was logged. @param {string} id @param {string} file */
export const imageAddress = (id, file) => (exported ? (exported.media[file] ?? "data:,") : `/api/runs/${id}/media/${encodeURIComponent(file)}`);
