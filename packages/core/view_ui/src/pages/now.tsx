import type { InProgress, Replica } from "../api";
import { useJson, useTick } from "../api";
import { percent, plural, seconds } from "../format";
import { Problem, Waiting } from "../parts/bits";

function where(slot: string): string {
  const [step = "", ...rest] = slot.split("/");
  return `${/^\d+$/.test(step) ? `step ${Number(step) + 1}` : `held out, ${step.replaceAll("-", " ")}`}: ${rest.join(" / ")}`;
}

function Replicas({ replicas }: { replicas: Replica[] }) {
  return (
    <div class="scroll">
      <table class="list">
        <caption>vLLM servers</caption>
        <thead><tr><th>server</th><th>state</th><th>in flight</th><th>rollouts</th><th>calls</th><th title="calls that found some of their prompt in the prefix cache">cached calls</th><th>cached prompt</th><th>starts</th></tr></thead>
        <tbody>
          {replicas.map((one) => (
            <tr key={one.name}>
              <td>{one.node ? `${one.name} on ${one.node}` : one.name}</td>
              <td><span class={`tag ${one.state === "ready" ? "good" : "warn"}`}>{one.state}</span></td>
              <td class="num">{one.in_flight}</td>
              <td class="num">{one.sessions}</td>
              <td class="num">{one.calls}</td>
              <td class="num">{percent(one.cached_calls)}</td>
              <td class="num">{percent(one.cached_tokens)}</td>
              <td class="num">{one.starts}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function NowPage({ run, version }: { run: number; version: number }) {
  const tick = useTick(2000);
  const { data, error } = useJson<InProgress>(`runs/${run}/in_progress`, `${version}/${tick}`);
  if (!data) return <Waiting error={error} />;
  const since = (at: number | null | undefined) => (at === null || at === undefined ? "" : seconds(Math.max(0, data.now_s - at)));
  if (!data.process)
    return <section class="pad"><h1>Nothing runs</h1><p>{data.finished ? "The run is finished." : `The run is not finished, and ${data.phase}.`}</p></section>;
  return (
    <>
      <header class="row">
        <h1>Now: {data.phase}</h1>
        <span class="quiet">process {data.process.pid}, for {since(data.process.since_s)}</span>
      </header>
      <Problem error={error} />
      {data.counts && <p role="status">{plural(data.counts.running, "rollout")} running, {data.counts.waiting} waiting, {plural(data.counts.judging, "group")} at the judge</p>}
      {data.replicas && data.replicas.length > 0 && <Replicas replicas={data.replicas} />}
      <div class="scroll">
        <table class="list">
          <thead><tr><th>what</th><th>state</th><th>since</th><th>calls answered</th><th>last answer</th><th>waits for</th></tr></thead>
          <tbody>
            {data.items.map((item) => (
              <tr key={item.slot}>
                <td>{where(item.slot)}</td>
                <td><span class={`tag ${item.state === "running" ? "good" : ""}`}>{item.state}</span></td>
                <td class="num">{since(item.since_s)}</td>
                <td class="num">{item.calls ?? ""}</td>
                <td class="num">{item.last_call_s ? `${since(item.last_call_s)} ago` : ""}</td>
                <td class="quiet">{item.waits_for}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
