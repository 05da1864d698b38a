// Writes page/stamp.json: the hashes of the sources the page was built from and of what was built. A test compares both.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const PAGE = "../src/woodshed/view/page";
const ROOTS = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "stamp.mjs"];

function digest(files) {
  const hash = createHash("sha256");
  for (const [name, path] of files) {
    hash.update(`${name}\n`);
    hash.update(readFileSync(path));
    hash.update("\n");
  }
  return hash.digest("hex");
}

const inSrc = readdirSync("src", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name).replaceAll("\\", "/"));
const sources = [...ROOTS, ...inSrc].sort().map((name) => [name, name]);
const built = readdirSync(PAGE)
  .filter((name) => name !== "stamp.json")
  .sort()
  .map((name) => [name, join(PAGE, name)]);
writeFileSync(join(PAGE, "stamp.json"), `${JSON.stringify({ sources: digest(sources), built: digest(built) }, null, 2)}\n`);
