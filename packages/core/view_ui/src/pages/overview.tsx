import { useMemo } from "preact/hooks";
import type { EvaluationPoint, Overview } from "../api";
import { useJson } from "../api";
import { DASH, number, percent, plural, seconds, usd } from "../format";
import { Problem, Tile, Waiting } from "../parts/bits";
import { Chart, type Line } from "../parts/chart";

function interval(point: EvaluationPoint): string {
  return point.interval ? `${percent(point.interval[0])} to ${percent(point.interval[1])}` : "interval not known";
}

function last(values: (number | null)[] | null | undefined): number | null {
  return values?.filter((value) => value !== null).at(-1) ?? null;
}

function mean(values: (number | null)[] | null | undefined): number | null {
  const known = (values ?? []).filter((value): value is number => value !== null);
  return known.length ? known.reduce((a, b) => a + b) / known.length : null;
}

/** The success of every evaluation, with its interval as bars. */
export function successLine(points: EvaluationPoint[], label: string, color: string): { steps: number[]; line: Line } {
  return {
    steps: points.map((point) => point.step),
    line: { label, color, values: points.map((point) => point.success), bars: points.map((point) => point.interval), points: true },
  };
}

function Tiles({ data }: { data: Overview }) {
  const first = data.evaluations[0];
  const end = data.evaluations.at(-1);
  const best = data.evaluations.find((point) => point.is_best);
  const reward = data.series.reward;
  const { totals } = data;
  return (
    <dl class="tiles">
      {first && end && (
        <Tile label="held-out success" value={first === end ? percent(first.success) : `${percent(first.success)} → ${percent(end.success)}`}
          note={best && best !== end ? `best ${percent(best.success)} after step ${best.step}` : interval(end)} />
      )}
      {reward && <Tile label={data.has_judge ? "judge's score" : "reward"} value={`${number(reward.find((v) => v !== null))} → ${number(last(reward))}`} />}
      <Tile label="steps" value={`${data.steps_done}${data.steps_asked ? ` of ${data.steps_asked}` : ""}`}
        note={totals.trained_steps === data.steps_done ? undefined : `${totals.trained_steps} trained`} />
      {totals.rollouts ? <Tile label="rollouts" value={number(totals.rollouts)} note={totals.masked ? `${totals.masked} masked` : undefined} /> : null}
      {totals.rollouts ? <Tile label="groups left out" value={number((totals.flat_groups ?? 0) + (totals.unjudged_groups ?? 0) + (totals.stale_groups ?? 0))}
        note={`${totals.flat_groups} flat, ${totals.unjudged_groups} unjudged, ${totals.stale_groups} stale`} /> : null}
      <Tile label="time" value={seconds(data.seconds)} note={data.peak_rss_mb ? `${number(data.peak_rss_mb / 1024)} GiB at its peak` : undefined} />
      {data.series.tokens_per_s && <Tile label="sampled" value={`${number(mean(data.series.tokens_per_s))} tokens/s`}
        note={data.series.train_tokens_per_s ? `trained ${number(mean(data.series.train_tokens_per_s))} tokens/s` : undefined} />}
      {totals.judge_requests ? <Tile label="judge" value={totals.judge_cost_usd === null ? "cost not known" : usd(totals.judge_cost_usd)} note={`${plural(totals.judge_requests, "request")}, ${number(totals.judge_tokens)} tokens`} /> : null}
    </dl>
  );
}

function Charts({ data }: { data: Overview }) {
  const { series, steps } = data;
  const charts = useMemo(() => {
    const line = (name: string, label: string, color = "--c1"): Line[] =>
      series[name] ? [{ label, values: series[name]!, color }] : [];
    return [
      { title: data.has_judge ? "Judge's score" : "Reward", about: "mean over the step's attempts", lines: line("reward", "mean") },
      { title: "Reward spread", about: "standard deviation within a group, mean over the step's groups: without it nothing is learned", lines: line("spread", "spread") },
      { title: "Loss", lines: [...line("loss", "loss"), ...line("nll", "negative log-likelihood", "--c2")] },
      { title: "Drift", unit: "nats", about: "how far trainer and engine differ on tokens of the same weights", lines: line("drift", "drift") },
      { title: "Entropy", unit: "nats", about: "of the sampling policy, estimated by its sampled tokens", lines: line("entropy", "entropy") },
      { title: "Staleness", unit: "steps", about: "how much older the sampling weights were", lines: line("staleness", "mean") },
      { title: "Tokens per second", lines: [...line("tokens_per_s", "sampled"), ...line("train_tokens_per_s", "trained", "--c2")] },
      { title: "Seconds", lines: [...line("rollout_s", "rollouts"), ...line("wait_s", "waited", "--c3"), ...line("train_s", "trained", "--c2")] },
      { title: "Left out", about: "attempts masked; groups that are flat, unjudged or stale",
        lines: [...line("masked", "masked"), ...line("flat_groups", "flat", "--c2"), ...line("unjudged_groups", "unjudged", "--c3"), ...line("stale_groups", "stale", "--c4")] },
      { title: "Judge's cost", unit: "USD", lines: line("judge_cost_usd", "USD") },
    ].filter((chart) => chart.lines.length);
  }, [data]);
  const success = useMemo(() => successLine(data.evaluations, "success", "--c1"), [data]);
  return (
    <div class="charts">
      {data.evaluations.length > 0 && (
        <Chart title="Held-out success" about="with its 95 % interval" steps={success.steps} lines={[success.line]} range={[0, 1]} />
      )}
      {charts.map((chart) => <Chart key={chart.title} {...chart} steps={steps} />)}
    </div>
  );
}

export function OverviewPage({ run, version }: { run: number; version: number }) {
  const { data, error } = useJson<Overview>(`runs/${run}/overview`, version);
  if (!data) return <Waiting error={error} />;
  return (
    <>
      <Problem error={error} />
      <h1>{data.name}</h1>
      <p class="quiet one-line" title={data.reward ?? ""}>{data.model?.split("/").slice(-2).join("/") ?? DASH} · {data.reward ?? DASH}</p>
      <Tiles data={data} />
      {data.warnings.length > 0 && (
        <section class="warnings" aria-label="Warnings">
          <h2>{plural(data.warnings.length, "warning")}</h2>
          <ul>{data.warnings.map((warning) => <li>{warning}</li>)}</ul>
        </section>
      )}
      {data.steps.length || data.evaluations.length ? <Charts data={data} />
        : <p class="pad">No step is finished yet. <a href={`#/${run}/now`}>What runs now</a></p>}
    </>
  );
}
