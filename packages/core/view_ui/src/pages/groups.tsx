import { useState } from "preact/hooks";
import type { GroupRow, Page, StepRow } from "../api";
import { useJson } from "../api";
import { DASH, number, percent, plural } from "../format";
import { href } from "../route";
import { Bar, Neighbours, Pager, Problem, Waiting } from "../parts/bits";

const LIMIT = 50;

function StepList({ run, version, chosen, go }: { run: number; version: number; chosen: number | null; go: (step: number) => void }) {
  const [offset, setOffset] = useState(0);
  const { data, error } = useJson<Page<StepRow>>(`runs/${run}/steps?offset=${offset}&limit=${LIMIT}`, version);
  if (!data) return <Waiting error={error} />;
  if (!data.total) return <p class="pad">No group is judged yet. <a href={href(run, "now")}>What runs now</a></p>;
  const current = chosen ?? data.items.find((row) => row.groups)?.step ?? null;
  if (chosen === null && current !== null) queueMicrotask(() => go(current));
  return (
    <>
      <ol class="steps" aria-label="Steps">
        {data.items.map((row) => (
          <li>
            <a href={href(run, "groups", row.step)} aria-current={row.step === current ? "true" : undefined}>
              <span>step {row.step + 1}</span>
              <span class="quiet">{row.trained === null ? "sampling" : number(row.reward)}</span>
            </a>
          </li>
        ))}
      </ol>
      <Pager page={data} limit={LIMIT} go={setOffset} />
    </>
  );
}

function verdict(row: GroupRow): string {
  if (row.error) return row.error;
  if (row.spread === 0) return "all scores equal";
  return "";
}

function GroupTable({ run, step, version }: { run: number; step: number; version: number }) {
  const [offset, setOffset] = useState(0);
  const [sort, setSort] = useState("spread");
  const { data, error } = useJson<Page<GroupRow> & { last: number }>(`runs/${run}/groups?step=${step}&offset=${offset}&limit=${LIMIT}&sort=${sort}`, version);
  if (!data) return <Waiting error={error} />;
  return (
    <section class="grow">
      <header class="row">
        <h1>Step {step + 1}</h1>
        <span class="quiet">{plural(data.total, "group")}</span>
        <label class="right">
          sorted by{" "}
          <select value={sort} onChange={(event) => (setSort(event.currentTarget.value), setOffset(0))}>
            <option value="spread">spread</option>
            <option value="mean">mean score</option>
            <option value="scenario">scenario</option>
          </select>
        </label>
        <Neighbours previous={step > 0 ? href(run, "groups", step - 1) : null} next={step < data.last ? href(run, "groups", step + 1) : null} up={href(run, "overview")} />
      </header>
      <Problem error={error} />
      <div class="scroll">
        <table class="list">
          <thead>
            <tr><th>scenario</th><th>mean</th><th>worst … best</th><th title="standard deviation of the scores">spread</th>
              <th title="how many attempts differ">different</th><th title="share of pairs that the judge ordered alike however they were shown">consistency</th><th /></tr>
          </thead>
          <tbody>
            {data.items.map((row) => (
              <tr>
                <td><a data-row href={href(run, "group", row.group_id)}>{row.scenario}</a></td>
                <td><Bar value={row.mean} label="mean score" /></td>
                <td class="num">{row.scored ? `${number(row.worst)} … ${number(row.best)}` : DASH}</td>
                <td class="num">{number(row.spread)}</td>
                <td class="num">{row.distinct ?? DASH} of {row.scored}</td>
                <td class="num">{row.consistency === null ? DASH : percent(row.consistency)}</td>
                <td class={row.error ? "bad" : "quiet"}>{verdict(row)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {!data.total && <p class="pad">No group of this step is judged yet. <a href={href(run, "now")}>What runs now</a></p>}
      <Pager page={data} limit={LIMIT} go={setOffset} />
    </section>
  );
}

export function GroupsPage({ run, step, version }: { run: number; step: number | null; version: number }) {
  const go = (chosen: number) => location.replace(href(run, "groups", chosen));
  return (
    <div class="two">
      <aside><StepList run={run} version={version} chosen={step} go={go} /></aside>
      {step !== null && <GroupTable key={step} run={run} step={step} version={version} />}
    </div>
  );
}
