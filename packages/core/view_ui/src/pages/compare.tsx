import { useMemo } from "preact/hooks";
import type { Heading, Overview } from "../api";
import { useJson } from "../api";
import { number, percent, seconds, usd } from "../format";
import { Waiting } from "../parts/bits";
import { Chart, type Line } from "../parts/chart";
import { href } from "../route";

const COLORS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
const MOST = COLORS.length;
const CHARTS: [string, string][] = [
  ["reward", "Score"], ["spread", "Reward spread"], ["loss", "Loss"], ["entropy", "Entropy, nats"], ["drift", "Drift, nats"],
  ["staleness", "Staleness, steps"], ["tokens_per_s", "Sampled tokens per second"], ["masked", "Masked attempts"], ["flat_groups", "Flat groups"],
];

function aligned(runs: Overview[], pick: (run: Overview) => { steps: number[]; values: (number | null)[]; bars?: Line["bars"] }): { steps: number[]; lines: Line[] } {
  const found = runs.map(pick);
  const steps = [...new Set(found.flatMap((one) => one.steps))].sort((a, b) => a - b);
  const lines = found.map((one, k) => {
    const at = new Map(one.steps.map((step, index) => [step, index]));
    const of = <T,>(values: T[] | undefined) => steps.map((step) => (at.has(step) ? values?.[at.get(step)!] ?? null : null));
    return { label: runs[k]!.name, color: COLORS[k]!, values: of(one.values), ...(one.bars ? { bars: of(one.bars), points: true } : {}) };
  });
  return { steps, lines };
}

function All({ runs }: { runs: Overview[] }) {
  const charts = useMemo(() => {
    const success = aligned(runs, (run) => ({
      steps: run.evaluations.map((point) => point.step),
      values: run.evaluations.map((point) => point.success),
      bars: run.evaluations.map((point) => point.interval),
    }));
    const others = CHARTS.map(([name, title]) => ({
      title,
      ...aligned(runs, (run) => ({ steps: run.steps, values: run.series[name] ?? [] })),
    })).filter((chart) => chart.lines.some((line) => line.values.some((value) => value !== null)));
    return [...(success.steps.length ? [{ title: "Held-out success", range: [0, 1] as [number, number], ...success }] : []), ...others];
  }, [runs]);
  return <div class="charts">{charts.map((chart) => <Chart key={chart.title} {...chart} />)}</div>;
}

/** Loads the runs one by one: hooks are called in the same order, whatever is there. */
function useRuns(indices: number[]): Overview[] {
  const asked = Array.from({ length: MOST }, (_, k) => useJson<Overview>(k < indices.length ? `runs/${indices[k]}/overview` : null));
  const found = asked.map((one) => one.data);
  return useMemo(() => found.filter((one): one is Overview => one !== null), found);
}

export function ComparePage({ runs }: { runs: Heading[] }) {
  const readable = runs.map((run, index) => ({ run, index })).filter(({ run }) => !run.error).slice(0, MOST);
  const loaded = useRuns(readable.map(({ index }) => index));
  if (!loaded.length) return <Waiting error={null} />;
  const shown = loaded.map((run) => ({ run, first: run.evaluations[0], end: run.evaluations.at(-1) }));
  return (
    <>
      <h1>{loaded.length} runs</h1>
      {runs.length > readable.length && <p class="quiet">The first {readable.length} of {runs.length} are compared; name those you want: woodshed view RUN RUN</p>}
      <div class="scroll">
        <table class="list">
          <thead><tr><th>run</th><th>steps</th><th>held-out success</th><th>score at last</th><th>masked</th><th>flat groups</th><th>time</th><th>judge</th></tr></thead>
          <tbody>
            {shown.map(({ run, first, end }, k) => (
              <tr>
                <td><span class={`dot k${k}`} aria-hidden="true" /> <a data-row href={href(readable[k]!.index, "overview")}>{run.name}</a></td>
                <td class="num">{run.steps_done}</td>
                <td class="num">{first && end ? `${percent(first.success)} → ${percent(end.success)}` : "–"}</td>
                <td class="num">{number(run.series.reward?.at(-1))}</td>
                <td class="num">{number(run.totals.masked)}</td>
                <td class="num">{number(run.totals.flat_groups)}</td>
                <td class="num">{seconds(run.seconds)}</td>
                <td class="num">{usd(run.totals.judge_cost_usd)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <All runs={loaded} />
    </>
  );
}
