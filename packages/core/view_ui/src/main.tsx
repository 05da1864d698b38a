import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import type { Heading } from "./api";
import { useEvents, useJson } from "./api";
import { Keys } from "./keys";
import { AttemptPage } from "./pages/attempt";
import { ComparePage } from "./pages/compare";
import { GroupPage } from "./pages/group";
import { GroupsPage } from "./pages/groups";
import { HeldOutPage, ScenarioPage } from "./pages/heldout";
import { NowPage } from "./pages/now";
import { OverviewPage } from "./pages/overview";
import { Waiting } from "./parts/bits";
import { href, type Route, useRoute } from "./route";

const PAGES: [string, string, string[]][] = [
  ["overview", "Overview", []],
  ["groups", "Groups", ["group", "attempt"]],
  ["heldout", "Then and now", []],
  ["now", "Now", []],
];

function state(run: Heading | undefined): { text: string; live: boolean } {
  if (!run || run.error) return { text: "", live: false };
  const steps = `${run.steps_done}${run.steps_asked ? ` of ${run.steps_asked}` : ""} steps`;
  if (run.process) return { text: `running, ${steps}`, live: true };
  return { text: run.finished ? `finished, ${steps}` : `stopped, ${steps}`, live: false };
}

function Page({ route, runs, version }: { route: Route; runs: Heading[]; version: number }) {
  const { run, page, rest } = route;
  const first = rest[0];
  if (page === "compare") return <ComparePage runs={runs} />;
  const problem = runs[run]?.error ?? (runs[run] ? null : `there is no run ${run} here`);
  if (problem) return <Waiting error={problem} />;
  switch (page) {
    case "groups":
      return <GroupsPage run={run} step={first !== undefined && /^\d+$/.test(first) ? Number(first) : null} version={version} />;
    case "group":
      return <GroupPage key={first} run={run} id={first ?? ""} version={version} />;
    case "attempt":
      return <AttemptPage key={first} run={run} slot={first ?? ""} version={version} />;
    case "heldout":
      return first === undefined ? <HeldOutPage run={run} version={version} /> : <ScenarioPage key={first} run={run} id={first} version={version} />;
    case "now":
      return <NowPage run={run} version={version} />;
    default:
      return <OverviewPage key={run} run={run} version={version} />;
  }
}

function Header({ route, runs }: { route: Route; runs: Heading[] }) {
  const now = state(runs[route.run]);
  const isHere = (name: string, also: string[]) => (route.page === name || also.includes(route.page) ? "page" : undefined);
  return (
    <header class="top">
      <span class="brand">woodshed</span>
      {runs.length > 1 && (
        <select aria-label="Run" value={route.run} onChange={(event) => (location.hash = href(Number(event.currentTarget.value), "overview"))}>
          {runs.map((run, index) => <option value={index}>{run.name}</option>)}
        </select>
      )}
      <nav aria-label="Views">
        {PAGES.map(([name, title, also]) => (
          <a data-key={name} href={href(route.run, name)} aria-current={isHere(name, also)}>{title}</a>
        ))}
        {runs.length > 1 && <a data-key="compare" href="#/compare" aria-current={isHere("compare", [])}>Compare</a>}
      </nav>
      <span class="right quiet" role="status">{now.live && <span class="dot live" aria-hidden="true" />} {now.text}</span>
      <Keys />
    </header>
  );
}

function App() {
  const route = useRoute();
  const version = useEvents(route.page === "compare" ? null : route.run);
  const { data, error } = useJson<Heading[]>("runs", version);
  if (!data) return <Waiting error={error} />;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>To the content</a>
      <Header route={route} runs={data} />
      <main id="main" tabIndex={-1}><Page route={route} runs={data} version={version} /></main>
    </>
  );
}

const root = document.getElementById("app")!;
root.replaceChildren();
render(<App />, root);
