import { useState } from "preact/hooks";
import type { Page, Scenario, ScenarioRow } from "../api";
import { useJson } from "../api";
import { DASH, number, percent, plural } from "../format";
import { Bar, Neighbours, Pager, Problem, Waiting } from "../parts/bits";
import { MessageList } from "../parts/messages";
import { href } from "../route";

const LIMIT = 50;

export function HeldOutPage({ run, version }: { run: number; version: number }) {
  const [offset, setOffset] = useState(0);
  const { data, error } = useJson<Page<ScenarioRow> & { points: string[] }>(`runs/${run}/scenarios?offset=${offset}&limit=${LIMIT}`, version);
  if (!data) return <Waiting error={error} />;
  if (!data.points.length)
    return <p class="pad">No held-out scenario has been measured. A run measures them where it is given <code>evaluation=</code>.</p>;
  return (
    <>
      <header class="row"><h1>Then and now</h1><span class="quiet">{plural(data.total, "held-out scenario")}, never trained on</span></header>
      <Problem error={error} />
      <div class="scroll">
        <table class="list">
          <thead><tr><th>scenario</th>{data.points.map((point) => <th>{point}</th>)}</tr></thead>
          <tbody>
            {data.items.map((row) => (
              <tr>
                <td><a data-row href={href(run, "heldout", row.scenario)}>{row.scenario}</a></td>
                {row.success.map((value, k) => <td>{value === null ? <span class="quiet">{DASH}</span> : <Bar value={value} label={`success ${data.points[k]}`} />}</td>)}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Pager page={data} limit={LIMIT} go={setOffset} />
    </>
  );
}

function Then({ run, column }: { run: number; column: Scenario["columns"][number] }) {
  const [at, setAt] = useState(0);
  const attempt = column.attempts[at];
  return (
    <section class="column" aria-label={column.label}>
      <header><h2>{column.label}</h2>{column.success !== null && <span class="quiet">success {percent(column.success)}</span>}</header>
      {!attempt && <p class="quiet">no attempt</p>}
      {column.attempts.length > 1 && (
        <p class="chips">
          {column.attempts.map((other, k) => (
            <button class="small" aria-pressed={k === at} onClick={() => setAt(k)}>#{other.number} {other.measured === null ? "" : number(other.measured)}</button>
          ))}
        </p>
      )}
      {attempt && (
        <>
          <p>
            <a data-row href={href(run, "attempt", attempt.slot)}>attempt {attempt.number}</a>{" "}
            {attempt.measured !== null && <span class={attempt.measured > 0.5 ? "tag good" : "tag warn"}>success {number(attempt.measured)}</span>}{" "}
            <span class="quiet">{plural(attempt.calls, "call")}, {plural(attempt.tokens, "token")}</span>
          </p>
          {attempt.error && <p class="problem">{attempt.error}</p>}
          {attempt.conversations.map((conversation) => (
            <div class="conversation">
              {attempt.conversations.length > 1 && <h3>{conversation.agent ?? "agent"}</h3>}
              <MessageList messages={conversation.messages} />
            </div>
          ))}
          {!attempt.conversations.length && attempt.calls > 0 && <p><a href={href(run, "attempt", attempt.slot)}>what it did</a></p>}
        </>
      )}
    </section>
  );
}

export function ScenarioPage({ run, id, version }: { run: number; id: string; version: number }) {
  const { data, error } = useJson<Scenario>(`runs/${run}/scenario?id=${encodeURIComponent(id)}`, version);
  if (!data) return <Waiting error={error} />;
  const link = (other: string | null) => (other === null ? null : href(run, "heldout", other));
  return (
    <>
      <header class="row">
        <h1>{data.scenario}</h1><span class="quiet">held out</span>
        <Neighbours previous={link(data.previous)} next={link(data.next)} up={href(run, "heldout")} />
      </header>
      <Problem error={error} />
      {data.shared.length > 0 && (
        <details class="shared">
          <summary>What all attempts share: {plural(data.shared.length, "message")}
            <span class="quiet one-line"> {data.shared.at(-1)?.content}</span></summary>
          <MessageList messages={data.shared} />
        </details>
      )}
      <p class="quiet">Marked is where an attempt differs from the first one before training.</p>
      <div class="columns" tabIndex={0} role="region" data-own-keys aria-label="The same scenario at each evaluation">
        {data.columns.map((column) => <Then key={column.label} run={run} column={column} />)}
      </div>
    </>
  );
}
