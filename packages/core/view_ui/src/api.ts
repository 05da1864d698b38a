// What the server says, and hooks that ask it. Paths are relative: the page's address begins with its secret.
import { useEffect, useRef, useState } from "preact/hooks";

export type Maybe = number | null | undefined;

export interface Heading {
  name: string;
  folder: string;
  error?: string;
  process: { pid: number; since_s: number } | null;
  finished: boolean;
  steps_done: number;
  steps_asked: number | null;
  model: string | null;
  reward: string | null;
  has_judge: boolean;
  seconds: number | null;
  peak_rss_mb: number | null;
  trajectories: number;
}

export interface EvaluationPoint {
  step: number;
  version: number;
  success: number;
  interval: [number, number] | null;
  rollouts: number | null;
  failed: number;
  masked: number;
  is_best: boolean;
}

export interface Overview extends Heading {
  steps: number[];
  series: Record<string, (number | null)[] | null>;
  trained: boolean[];
  evaluations: EvaluationPoint[];
  totals: Record<string, number | null>;
  warnings: string[];
}

export interface Page<Item> {
  total: number;
  offset: number;
  items: Item[];
}

export interface StepRow {
  step: number;
  groups: number;
  reward: number | null;
  flat: number;
  masked: number | null;
  trained: boolean | null;
  version: number | null;
}

export interface GroupRow {
  group_id: string;
  scenario: string;
  scored: number;
  mean: number | null;
  spread: number | null;
  best: number | null;
  worst: number | null;
  consistency: number | null;
  distinct: number | null;
  error: string | null;
}

export interface ToolRequest {
  id: string;
  name: string;
  arguments: string;
  whole?: number;
  other_tool?: boolean;
  marks?: [number, number][];
}

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string | null;
  whole?: number;
  requests?: ToolRequest[];
  tool?: string;
  latency_s?: number;
  error?: string | null;
  call?: string;
  reasoning?: string | null;
  same?: boolean;
  marks?: [number, number][];
}

export interface Tool {
  name: string;
  description: string;
  parameters: unknown;
}

export interface Conversation {
  agent: string | null;
  messages: Message[];
  tools: Tool[];
}

export interface Score {
  value: number;
  explanation: string;
  agents: Record<string, number>;
  calls: Record<string, number>;
  parts: Record<string, number>;
}

export interface Training {
  state: "trained" | "masked" | "waiting";
  why?: string;
  advantage: number | null;
}

export interface Summary {
  number: number;
  rollout_id: string;
  status: string;
  error: string | null;
  calls: number;
  tool_calls: number;
  tokens: number;
  latency_s: number;
  metrics: Record<string, number>;
  output: unknown;
  versions: number[];
}

export interface GroupAttempt extends Summary {
  score: Score | null;
  training: Training | null;
}

export interface Reading {
  judge: string;
  shown: { number: number | null; score: number; explanation: string | null }[];
}

export interface Judgement {
  judge: string;
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number | null;
  cached: boolean;
  consistency: number | null;
  distinct: number | null;
  shortened: number;
  error: string | null;
  readings: Reading[];
}

export interface Group {
  group_id: string;
  scenario: string;
  step: number | string;
  shared: Message[];
  tools: Tool[];
  columns: { attempts: GroupAttempt[]; conversations: Conversation[] }[];
  judgement: Judgement | null;
  previous: string | null;
  next: string | null;
}

export interface Call {
  call: string;
  agent: string | null;
  task: string | null;
  parent: string | null;
  attempt: number;
  superseded: boolean;
  at_s: number;
  latency_s: number;
  prompt_tokens: number;
  sampled_tokens: number;
  finish_reason: string | null;
  versions: number[];
  retries: number;
  fork: string | null;
  continued_from: string | null;
  sampling: Record<string, unknown>;
  untrained: string | null;
  tools: string[];
  error: string | null;
}

export interface Attempt extends Summary {
  slot: string;
  group_id: string;
  scenario: string;
  step: number | string;
  score: Score | null;
  measured: number | null;
  training: Training | null;
  conversations: Conversation[];
  timeline: Call[];
  unread_tools: { name: string; arguments: unknown; result: string | null; error: string | null; latency_s: number }[];
  previous: string | null;
  next: string | null;
}

export interface Token {
  id: number;
  text: string | null;
  logprob: number | null;
  version: number | null;
  ratio: number | null;
}

export interface Tokens {
  call: string;
  trained: boolean;
  untrained: string | null;
  prompt_tokens: number;
  notes: string[];
  completions: { finish_reason: string | null; tokens: Token[] }[];
}

export interface ScenarioRow {
  scenario: string;
  success: (number | null)[];
}

export interface ScenarioAttempt extends Summary {
  slot: string;
  measured: number | null;
  conversations: Conversation[];
}

export interface Scenario {
  scenario: string;
  shared: Message[];
  columns: { label: string; success: number | null; attempts: ScenarioAttempt[] }[];
  previous: string | null;
  next: string | null;
}

export interface Item {
  slot: string;
  state: "running" | "waiting" | "judging";
  since_s: number | null;
  waits_for: string;
  calls?: number | null;
  last_call_s?: number | null;
}

export interface Replica {
  name: string;
  state: string;
  node?: string | null;
  in_flight: number;
  sessions: number;
  calls: number;
  starts: number;
  cached_calls: number | null;
  cached_tokens: number | null;
}

export interface InProgress {
  process: { pid: number; since_s: number } | null;
  finished: boolean;
  now_s: number;
  phase: string;
  counts?: { running: number; waiting: number; judging: number };
  replicas?: Replica[];
  items: Item[];
}

async function ask<T>(path: string, signal: AbortSignal): Promise<T> {
  const response = await fetch(`api/${path}`, { signal });
  const body = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(body.error ?? `the server answered ${response.status}`);
  return body as T;
}

export interface Asked<T> {
  data: T | null;
  error: string | null;
}

/** Asks for `path`, and again whenever `version` changes; what is shown stays until the new answer is there. */
export function useJson<T>(path: string | null, version: unknown = 0): Asked<T> {
  const [state, setState] = useState<Asked<T> & { path: string | null }>({ data: null, error: null, path: null });
  useEffect(() => {
    if (path === null) return;
    const abort = new AbortController();
    ask<T>(path, abort.signal)
      .then((data) => setState({ data, error: null, path }))
      .catch((error: Error) => {
        if (!abort.signal.aborted) setState((old) => ({ data: old.path === path ? old.data : null, error: error.message, path }));
      });
    return () => abort.abort();
  }, [path, version]);
  // What belongs to another path is never shown under this one.
  return state.path === path ? state : { data: null, error: null };
}

/** Counts up whenever the run has something new to see. */
export function useEvents(run: number | null): number {
  const [count, setCount] = useState(0);
  const first = useRef(true);
  useEffect(() => {
    if (run === null) return;
    first.current = true;
    const source = new EventSource(`api/runs/${run}/events`);
    source.onmessage = () => {
      // The first one says how things are, and that is what was just asked for.
      if (first.current) first.current = false;
      else setCount((old) => old + 1);
    };
    return () => source.close();
  }, [run]);
  return count;
}

/** A number that counts up every `ms` milliseconds. */
export function useTick(ms: number): number {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setCount((old) => old + 1), ms);
    return () => clearInterval(timer);
  }, [ms]);
  return count;
}
