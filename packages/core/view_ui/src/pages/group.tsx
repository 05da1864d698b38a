import type { Group, GroupAttempt, Judgement } from "../api";
import { useJson } from "../api";
import { DASH, number, percent, plural, usd } from "../format";
import { Bar, Neighbours, Problem, ScoreParts, State, Waiting } from "../parts/bits";
import { MessageList, Tools } from "../parts/messages";
import { href } from "../route";

function Column({ run, group, column, place }: { run: number; group: Group; column: Group["columns"][number]; place: number }) {
  const [first, ...others] = column.attempts as [GroupAttempt, ...GroupAttempt[]];
  const name = `Attempt ${first.number}`;
  return (
    <section class="column" aria-label={`${name}, place ${place}`}>
      <header>
        <h2><a data-row href={href(run, "attempt", `${group.group_id}/${first.number}`)}>#{first.number}</a></h2>
        {first.score ? <Bar value={first.score.value} label="judge's score" /> : <span class="quiet">no score</span>}
      </header>
      {others.length > 0 && (
        <p class="quiet">
          said and done alike: {others.map((other, k) => (
            <>{k > 0 && ", "}<a href={href(run, "attempt", `${group.group_id}/${other.number}`)}>#{other.number}</a></>
          ))}
        </p>
      )}
      {first.score?.explanation && <blockquote class="why" aria-label="The judge's explanation">{first.score.explanation}</blockquote>}
      {first.score && <ScoreParts score={first.score} />}
      {first.error && <p class="problem">{first.error}</p>}
      <p><State training={first.training} /></p>
      <p class="quiet">{plural(first.calls, "call")}, {plural(first.tool_calls, "tool call")}, {plural(first.tokens, "token")}</p>
      {column.conversations.map((conversation, k) => (
        <div class="conversation">
          {(k > 0 || column.conversations.length > 1) && <h3>{conversation.agent ?? "agent"}</h3>}
          <MessageList messages={conversation.messages} />
        </div>
      ))}
      {!column.conversations.length && <p class="quiet">The model was never called.</p>}
    </section>
  );
}

function JudgeLine({ judgement }: { judgement: Judgement | null }) {
  if (!judgement) return <p class="quiet">Not judged yet.</p>;
  const cost = judgement.requests && judgement.cost_usd !== null ? `, ${usd(judgement.cost_usd)}` : "";
  return (
    <>
      {judgement.error && <p class="problem">No verdict: {judgement.error}. The group is masked.</p>}
      <p>
        Judged by <b>{judgement.judge || DASH}</b>{" "}
        <span class="quiet">
          ({judgement.cached ? "from the cache" : `${plural(judgement.requests, "request")}, ${number(judgement.prompt_tokens + judgement.completion_tokens)} tokens${cost}`})
        </span>
        {judgement.consistency !== null && <> · consistency <b>{percent(judgement.consistency)}</b></>}
        {judgement.distinct !== null && <> · {judgement.distinct} different attempts</>}
        {judgement.shortened > 0 && <span class="tag warn">{plural(judgement.shortened, "attempt")} shown in part</span>}
      </p>
    </>
  );
}

function Orders({ judgement }: { judgement: Judgement | null }) {
  if (!judgement) return null;
  if (!judgement.readings.length)
    return <p class="quiet">{judgement.requests || judgement.cached ? "The orders in which the judge saw the attempts were not kept by this run." : ""}</p>;
  return (
    <details class="orders">
      <summary>{judgement.readings.length === 1 ? "The order the judge saw" : `All ${judgement.readings.length} orders the judge saw`}</summary>
      <ol>
        {judgement.readings.map((reading) => (
          <li>
            <span class="quiet">{reading.judge}: </span>
            {reading.shown.map((one) => (
              <span class="chip" title={one.explanation ?? undefined}>#{one.number ?? "?"} <b>{number(one.score)}</b></span>
            ))}
          </li>
        ))}
      </ol>
    </details>
  );
}

export function GroupPage({ run, id, version }: { run: number; id: string; version: number }) {
  const { data, error } = useJson<Group>(`runs/${run}/group?id=${encodeURIComponent(id)}`, version);
  if (!data) return <Waiting error={error} />;
  const count = data.columns.reduce((sum, column) => sum + column.attempts.length, 0);
  const link = (other: string | null) => (other === null ? null : href(run, "group", other));
  return (
    <>
      <header class="row">
        <h1>{data.scenario}</h1>
        <span class="quiet">{typeof data.step === "number" ? `step ${data.step + 1}` : data.step}</span>
        <Neighbours previous={link(data.previous)} next={link(data.next)} up={href(run, "groups", data.step)} />
      </header>
      <Problem error={error} />
      <JudgeLine judgement={data.judgement} />
      <Orders judgement={data.judgement} />
      {data.shared.length > 0 && (
        <details class="shared">
          <summary>What all {count} attempts share: {plural(data.shared.length, "message")}
            <span class="quiet one-line"> {data.shared.at(-1)?.content}</span></summary>
          <MessageList messages={data.shared} />
          <Tools tools={data.tools} />
        </details>
      )}
      <p class="quiet">The judge's best first. Marked is where an attempt differs: the best from the next, all others from the best.</p>
      <div class="columns" tabIndex={0} role="region" aria-label="Attempts side by side" data-own-keys>
        {data.columns.map((column, place) => <Column run={run} group={data} column={column} place={place + 1} />)}
      </div>
    </>
  );
}
