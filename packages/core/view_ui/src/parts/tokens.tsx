// The sampled tokens of one call, coloured by what is asked for; arrow keys walk through them.
import { useState } from "preact/hooks";
import type { Token, Tokens } from "../api";
import { useJson } from "../api";
import { DASH, number } from "../format";
import { Waiting } from "./bits";

type By = "probability" | "ratio" | "version";

function shade(token: Token, by: By, newest: number): string {
  if (by === "probability") {
    if (token.logprob === null) return "";
    const p = Math.exp(token.logprob);
    return p > 0.9 ? "" : p > 0.5 ? "t1" : p > 0.2 ? "t2" : p > 0.05 ? "t3" : "t4";
  }
  if (by === "ratio") {
    if (token.ratio === null) return "";
    const away = Math.abs(Math.log(token.ratio));
    const side = token.ratio > 1 ? "up" : "down";
    return away < 0.02 ? "" : away < 0.1 ? `${side}1` : away < 0.4 ? `${side}2` : `${side}3`;
  }
  return token.version === null || token.version === newest ? "" : `t${Math.min(4, newest - token.version)}`;
}

function shown(token: Token): string {
  if (token.text === null) return `#${token.id}`;
  return token.text === "" ? "·" : token.text.replaceAll("\n", "⏎\n");
}

function describe(token: Token, trained: boolean): string {
  const p = token.logprob === null ? DASH : number(Math.exp(token.logprob), 4);
  return (
    `token ${token.id} ${JSON.stringify(token.text ?? "")} · log-probability ${number(token.logprob)} nats (p ${p}) · ` +
    `importance ratio ${number(token.ratio, 4)} · weights v${token.version ?? DASH} · ${trained ? "trained" : "not trained"}`
  );
}

export function TokenView({ run, slot, call }: { run: number; slot: string; call: string }) {
  const query = new URLSearchParams({ slot, call });
  const { data, error } = useJson<Tokens>(`runs/${run}/tokens?${query}`);
  const [by, setBy] = useState<By>("probability");
  const [at, setAt] = useState<number | null>(null);
  if (!data) return <Waiting error={error} />;
  const all = data.completions.flatMap((completion) => completion.tokens);
  const newest = Math.max(...all.map((token) => token.version ?? 0));
  const chosen = at === null ? null : all[at];
  const walk = (event: KeyboardEvent) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    setAt((old) => Math.max(0, Math.min(all.length - 1, old === null ? 0 : old + step)));
  };
  let index = 0;
  return (
    <section class="tokens" aria-label="Sampled tokens">
      <header>
        <label>
          colour by{" "}
          <select value={by} onChange={(event) => setBy(event.currentTarget.value as By)}>
            <option value="probability">probability</option>
            <option value="ratio">importance ratio</option>
            <option value="version">weight version</option>
          </select>
        </label>
        <span class={data.trained ? "tag good" : "tag warn"}>{data.trained ? "trained" : `not trained: ${data.untrained}`}</span>
        <span class="quiet">{all.length} sampled after {data.prompt_tokens} of prompt</span>
      </header>
      {data.completions.map((completion) => (
        <div class="token-text" tabIndex={0} role="application" data-own-keys
          aria-label="Tokens; left and right arrow keys walk through them" onKeyDown={walk}>
          {completion.tokens.map((token) => {
            const own = index++;
            return (
              <span class={`token ${shade(token, by, newest)} ${own === at ? "at" : ""}`} title={describe(token, data.trained)}
                onMouseEnter={() => setAt(own)} onClick={() => setAt(own)}>
                {shown(token)}
              </span>
            );
          })}
        </div>
      ))}
      <p class="token-line" aria-live="polite">{chosen ? describe(chosen, data.trained) : "point at a token, or walk with ← →"}</p>
      {data.notes.map((note) => <p class="quiet">{note}</p>)}
    </section>
  );
}
