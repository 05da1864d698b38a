// The keyboard: an element with `data-key="next"` is what the key for `next` activates; j and k walk through rows.
import { useEffect, useRef, useState } from "preact/hooks";

const ACTIONS: Record<string, string> = {
  "1": "overview", "2": "groups", "3": "heldout", "4": "now", "5": "compare",
  ArrowLeft: "previous", h: "previous", ArrowRight: "next", l: "next", u: "up",
};

const HELP: [string, string][] = [
  ["1 … 5", "Overview, Groups, Then and now, Now, Compare"],
  ["← →  or  h l", "the one before, the next"],
  ["j k", "next and previous row; Enter opens it"],
  ["u", "up: from an attempt to its group, from there to its step"],
  ["?", "this list"],
];

function rows(): HTMLElement[] {
  return [...document.querySelectorAll<HTMLElement>("[data-row]")];
}

function walk(step: number): void {
  const all = rows();
  const at = all.indexOf(document.activeElement as HTMLElement);
  const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

export function Keys() {
  const [open, setOpen] = useState(false);
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
      if (target.closest("[data-own-keys]") && event.key.startsWith("Arrow")) return;
      if (event.key === "?") return setOpen((old) => !old);
      if (event.key === "j") return walk(1);
      if (event.key === "k") return walk(-1);
      const action = ACTIONS[event.key];
      if (action) document.querySelector<HTMLElement>(`[data-key="${action}"]`)?.click();
    };
    window.addEventListener("keydown", pressed);
    return () => window.removeEventListener("keydown", pressed);
  }, []);
  return (
    <>
      <button class="plain" onClick={() => setOpen(true)} aria-label="Keyboard shortcuts">?</button>
      <dialog ref={dialog} onClose={() => setOpen(false)} aria-labelledby="keys-title">
        <h2 id="keys-title">Keyboard</h2>
        <dl class="keys">
          {HELP.map(([key, what]) => (
            <>
              <dt>{key}</dt>
              <dd>{what}</dd>
            </>
          ))}
        </dl>
        <button onClick={() => setOpen(false)}>Close</button>
      </dialog>
    </>
  );
}
