// A run's colour and dashes: by its name, so that they never change, and different from those of runs chosen before it.

// Okabe and Ito's colours and some between them: told apart with any colour vision, on light and on dark.
const LIGHT = ["#0072b2", "#c84d00", "#007a5a", "#b0478a", "#7a5c00", "#2f6fd6", "#a3262b", "#4b5d67"];
const DARK = ["#56b4e9", "#f0894a", "#2fc79b", "#e58bc2", "#d9b63a", "#8fb4ff", "#ff8a80", "#b5c4cc"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

/** @typedef {{colour: string, dash: number[]}} Pen */

/**
 * Return a pen for each run. One that another run before it has is not given again while others are free.
 * @param {{id: string}[]} runs @param {boolean} isDark @returns {Map<string, Pen>}
 */
export function pens(runs, isDark) {
  const colours = isDark ? DARK : LIGHT;
  const all = colours.length * DASHES.length;
  const used = new Set();
  const found = new Map();
  for (const { id } of runs) {
    const start = parseInt(id.slice(0, 8), 16) % colours.length;
    let place = start; // solid lines first
    for (let tries = 1; used.has(place) && tries < all; tries += 1) {
      place = Math.floor(tries / colours.length) * colours.length + ((start + tries) % colours.length);
    }
    used.add(place);
    found.set(id, { colour: colours[place % colours.length], dash: DASHES[Math.floor(place / colours.length)] });
  }
  return found;
}

/** Tell whether the page is dark. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
