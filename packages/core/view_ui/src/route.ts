// The part of the address after #: `#/0/group/4%2Fscenario`, where 0 is the run.
import { useEffect, useState } from "preact/hooks";

export type Route = { run: number; page: string; rest: string[]; query: URLSearchParams };

export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  if (parts[0] === "compare") return { run: 0, page: "compare", rest: [], query: new URLSearchParams(query) };
  const run = /^\d+$/.test(parts[0] ?? "") ? Number(parts.shift()) : 0;
  return { run, page: parts[0] ?? "overview", rest: parts.slice(1), query: new URLSearchParams(query) };
}

export function href(run: number, page: string, ...rest: (string | number)[]): string {
  return `#/${[run, page, ...rest.map((part) => encodeURIComponent(part))].join("/")}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => {
      setRoute(parse(location.hash));
      window.scrollTo(0, 0);
    };
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}
