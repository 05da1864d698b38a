import { useState } from "preact/hooks";
import type { Attempt, Call, Message } from "../api";
import { useJson } from "../api";
import { DASH, json, number, plural, seconds } from "../format";
import { Bar, Neighbours, Problem, ScoreParts, State, Waiting } from "../parts/bits";
import { MessageList, Tools } from "../parts/messages";
import { TokenView } from "../parts/tokens";
import { href } from "../route";

/** Calls in the order of a tree: after each its children, by their start. */
export function tree(calls: Call[]): { call: Call; depth: number }[] {
  const children = new Map<string | null, Call[]>();
  for (const call of calls) children.set(call.parent, [...(children.get(call.parent) ?? []), call]);
  const found: { call: Call; depth: number }[] = [];
  const seen = new Set<string>();
  const walk = (parent: string | null, depth: number) => {
    for (const call of children.get(parent) ?? []) {
      if (seen.has(call.call)) continue;
      seen.add(call.call);
      found.push({ call, depth });
      walk(call.call, depth + 1);
    }
  };
  walk(null, 0);
  // Parents that form a circle are nobody's children.
  return [...found, ...calls.filter((call) => !seen.has(call.call)).map((call) => ({ call, depth: 0 }))];
}

function notes(call: Call): string[] {
  return [
    call.attempt > 1 ? `attempt ${call.attempt}` : "",
    call.superseded ? "replaced" : "",
    call.retries ? plural(call.retries, "retry", "retries") : "",
    call.fork ? `fork: ${call.fork}` : "",
    call.error ?? "",
    !call.superseded && call.untrained ? call.untrained : "",
    call.finish_reason === "length" ? "cut at its token limit" : "",
  ].filter(Boolean);
}

function Timeline({ calls, total }: { calls: Call[]; total: number }) {
  const end = Math.max(total, ...calls.map((call) => call.at_s + call.latency_s), 0.001);
  const agents = [...new Set(calls.map((call) => call.agent))];
  return (
    <section aria-label="Model calls">
      <h2>{plural(calls.length, "model call")}{agents.length > 1 && `, ${agents.length} agents`}</h2>
      <div class="scroll">
        <table class="timeline">
          <thead><tr><th>agent</th><th>asked for</th><th class="lane">0 to {seconds(end)}</th><th>took</th><th>tokens in → out</th><th>weights</th><th /></tr></thead>
          <tbody>
            {tree(calls).map(({ call, depth }) => (
              <tr class={call.superseded ? "faint" : ""}>
                <td class={`depth d${Math.min(depth, 6)}`}>{depth > 0 && <span aria-hidden="true">└ </span>}
                  <span class={`dot a${agents.indexOf(call.agent) % 6}`} aria-hidden="true" /> {call.agent ?? "agent"}
                  {call.task && <span class="quiet"> {call.task}</span>}</td>
                <td>{call.tools.join(", ") || <span class="quiet">answer</span>}</td>
                <td class="lane">
                  <svg viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label={`from ${seconds(call.at_s)} on, for ${seconds(call.latency_s)}`}>
                    <rect class={`a${agents.indexOf(call.agent) % 6}`} x={(1000 * call.at_s) / end} width={Math.max(4, (1000 * call.latency_s) / end)} y="0" height="10" />
                  </svg>
                </td>
                <td class="num">{seconds(call.latency_s)}</td>
                <td class="num">{call.prompt_tokens} → {call.sampled_tokens}</td>
                <td class="num">{call.versions.map((v) => `v${v}`).join(", ") || DASH}</td>
                <td class="quiet">{notes(call).join("; ")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function TokenButton({ run, slot, call }: { run: number; slot: string; call: string }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button class="small" aria-expanded={open} onClick={() => setOpen(!open)}>{open ? "hide tokens" : "tokens"}</button>
      {open && <TokenView run={run} slot={slot} call={call} />}
    </>
  );
}

function Verdict({ data }: { data: Attempt }) {
  return (
    <section class="verdict">
      {data.score && <Bar value={data.score.value} label="judge's score" />}
      {data.measured !== null && <span class={data.measured > 0.5 ? "tag good" : "tag warn"}>success {number(data.measured)}</span>}
      <State training={data.training} />
      {data.status !== "completed" && <span class="tag warn">{data.status.replace("_", " ")}</span>}
      <span class="quiet">{seconds(data.latency_s)}, {plural(data.tokens, "sampled token")}</span>
      {data.score?.explanation && <blockquote class="why">{data.score.explanation}</blockquote>}
      {data.score && <ScoreParts score={data.score} />}
      {data.error && <p class="problem">{data.error}</p>}
      {Object.keys(data.metrics).length > 0 && (
        <dl class="parts">{Object.entries(data.metrics).map(([name, value]) => <><dt>{name}</dt><dd>{number(value)}</dd></>)}</dl>
      )}
    </section>
  );
}

export function AttemptPage({ run, slot, version }: { run: number; slot: string; version: number }) {
  const { data, error } = useJson<Attempt>(`runs/${run}/attempt?slot=${encodeURIComponent(slot)}`, version);
  if (!data) return <Waiting error={error} />;
  const link = (other: string | null) => (other === null ? null : href(run, "attempt", other));
  const isTrained = typeof data.step === "number";
  const up = isTrained ? href(run, "group", data.group_id) : href(run, "heldout", data.scenario);
  const tokens = (message: Message) => (message.call ? <TokenButton run={run} slot={data.slot} call={message.call} /> : null);
  return (
    <>
      <header class="row">
        <h1>Attempt {data.number}</h1>
        <span class="quiet">
          <a href={up}>{data.scenario}</a>, {isTrained ? `step ${(data.step as number) + 1}` : `held out, ${String(data.step).replaceAll("-", " ")}`}
        </span>
        <Neighbours previous={link(data.previous)} next={link(data.next)} up={up} />
      </header>
      <Problem error={error} />
      <Verdict data={data} />
      <Timeline calls={data.timeline} total={data.latency_s} />
      {data.conversations.map((conversation, k) => (
        <section class="conversation wide" aria-label={`Conversation ${k + 1}`}>
          <h2>{conversation.agent ?? "agent"} {data.conversations.length > 1 && <span class="quiet">conversation {k + 1} of {data.conversations.length}</span>}</h2>
          <Tools tools={conversation.tools} />
          <MessageList messages={conversation.messages} after={tokens} />
        </section>
      ))}
      {!data.conversations.length && <p class="pad">The model was never called.</p>}
      {data.unread_tools.length > 0 && (
        <section>
          <h2>Tool calls whose result no model read</h2>
          {data.unread_tools.map((tool) => (
            <article class="message tool">
              <header><span class="tool-name">{tool.name}</span><span class="quiet">{seconds(tool.latency_s)}</span></header>
              <pre>{json(tool.arguments)}</pre>
              {tool.result !== null && <pre class="said">{tool.result}</pre>}
              {tool.error && <p class="problem">the tool failed: {tool.error}</p>}
            </article>
          ))}
        </section>
      )}
      {data.output !== null && <section><h2>Returned</h2><pre class="said">{json(data.output)}</pre></section>}
    </>
  );
}
