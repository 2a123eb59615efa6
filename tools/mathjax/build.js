// Writes book/assets/mathjax/mathjax.js, one script in place of MathJax's own components, of nearly half
// their size: they are made for browsers of 2009, and hold packages that the book does not use. This is
// made from the TypeScript sources that come with them, for browsers of 2020.
//
//   cd tools/mathjax && npm ci && npm run build
import { existsSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";

const root = path.resolve("node_modules/mathjax-full");

const fromTypeScript = {
  name: "from TypeScript",
  setup({ onResolve }) {
    onResolve({ filter: /\.js$/ }, ({ path: name, resolveDir }) => {
      const file = name.startsWith("mathjax-full/") ? path.join(root, "..", name) : path.resolve(resolveDir, name);
      const source = file.replace(path.join(root, "js"), path.join(root, "ts")).replace(/\.js$/, ".ts");
      const found = [source, file, file.replace(path.join(root, "ts"), path.join(root, "js"))].find(existsSync);
      return found && { path: found };
    });
  },
};

await build({
  entryPoints: ["book.js"],
  outfile: "../../book/assets/mathjax/mathjax.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2020",
  define: { global: "window", __dirname: '""' },
  tsconfigRaw: { compilerOptions: { target: "es2020", useDefineForClassFields: false } },
  plugins: [fromTypeScript],
  banner: { js: "/* MathJax 3.2.2, https://www.mathjax.org, Apache License 2.0; made by tools/mathjax/build.js */" },
});
