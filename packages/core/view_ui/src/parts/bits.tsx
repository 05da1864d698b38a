// Small pieces that every page uses.
import type { ComponentChildren } from "preact";
import type { GroupAttempt, Page, Score, Training } from "../api";
import { DASH, number } from "../format";

export function Problem({ error }: { error: string | null }) {
  return error ? <p class="problem" role="alert">{error}</p> : null;
}

export function Waiting({ error }: { error: string | null }) {
  return error ? <Problem error={error} /> : <p class="quiet pad" role="status">Loading …</p>;
}

export function Tile({ label, value, note }: { label: string; value: ComponentChildren; note?: ComponentChildren }) {
  return (
    <div class="tile">
      <dt>{label}</dt>
      <dd>{value}{note && <small>{note}</small>}</dd>
    </div>
  );
}

/** A score from 0 to 1 as a number with a bar. */
export function Bar({ value, label }: { value: number | null | undefined; label?: string }) {
  const known = value !== null && value !== undefined;
  const width = known ? Math.max(0, Math.min(1, value)) : 0;
  return (
    <span class="bar">
      <span class="bar-number">{number(value)}</span>
      <meter min={0} max={1} value={width} aria-label={label ?? "score"}>{number(value)}</meter>
    </span>
  );
}

export function Pager({ page, limit, go }: { page: Page<unknown>; limit: number; go: (offset: number) => void }) {
  if (page.total <= limit) return null;
  const last = Math.min(page.offset + limit, page.total);
  return (
    <nav class="pager" aria-label="Pages">
      <button disabled={page.offset === 0} onClick={() => go(Math.max(0, page.offset - limit))}>← back</button>
      <span class="quiet">{page.offset + 1} to {last} of {page.total.toLocaleString("en-US")}</span>
      <button disabled={last >= page.total} onClick={() => go(page.offset + limit)}>on →</button>
    </nav>
  );
}

export function Neighbours({ previous, next, up }: { previous: string | null; next: string | null; up: string }) {
  return (
    <nav class="neighbours" aria-label="Neighbours">
      {previous ? <a data-key="previous" href={previous}>← previous</a> : <span class="quiet">← previous</span>}
      <a data-key="up" href={up}>up</a>
      {next ? <a data-key="next" href={next}>next →</a> : <span class="quiet">next →</span>}
    </nav>
  );
}

export function State({ training }: { training: Training | null }) {
  if (!training) return null;
  if (training.state === "trained")
    return <span class="tag good" title="advantage: its score against its group">trained, advantage {number(training.advantage)}</span>;
  if (training.state === "waiting") return <span class="tag">{training.why ?? "its step is not trained yet"}</span>;
  return <span class="tag warn">not trained: {training.why}</span>;
}

export function ScoreParts({ score }: { score: Score }) {
  const parts = [...Object.entries(score.parts), ...Object.entries(score.agents).map(([k, v]) => [`agent ${k}`, v] as const)];
  if (!parts.length) return null;
  return <dl class="parts">{parts.map(([name, value]) => <><dt>{name}</dt><dd>{number(value)}</dd></>)}</dl>;
}

export function attemptFigures(a: GroupAttempt): string {
  return a.score ? number(a.score.value) : DASH;
}
