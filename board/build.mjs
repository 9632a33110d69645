// Builds the page's two files from src/, into the folder given as argument or into the Python package.
import { build } from "esbuild";

const folder = process.argv[2] ?? new URL("../src/rushlight/board/page", import.meta.url).pathname;

await build({
  entryPoints: { board: "src/main.js" },
  absWorkingDir: new URL(".", import.meta.url).pathname,
  outdir: folder,
  bundle: true,
  minify: true,
  format: "iife", // a page from file:// loads no modules
  target: "es2022",
  charset: "utf8",
  legalComments: "inline",
});
