// Messages of a conversation. What a model or a tool wrote is shown as text, never as HTML.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Message, Tool, ToolRequest } from "../api";
import { json, seconds } from "../format";

/** Text with some runs of its characters marked. Positions count code points, as Python does. */
export function Marked({ text, marks }: { text: string; marks?: [number, number][] }) {
  if (!marks || !marks.length) return <>{text}</>;
  const letters = [...text];
  const parts: ComponentChildren[] = [];
  let at = 0;
  for (const [start, end] of marks) {
    parts.push(letters.slice(at, start).join(""), <mark>{letters.slice(start, end).join("")}</mark>);
    at = end;
  }
  parts.push(letters.slice(at).join(""));
  return <>{parts}</>;
}

function pretty(request: ToolRequest): string {
  if (request.marks?.length) return request.arguments;
  try {
    const parsed = JSON.parse(request.arguments);
    const entries = Object.entries(parsed as Record<string, unknown>);
    return entries.map(([name, value]) => `${name}: ${json(value)}`).join("\n");
  } catch {
    return request.arguments;
  }
}

function Request({ request }: { request: ToolRequest }) {
  return (
    <div class="request">
      <span class="tool-name">{request.other_tool ? <mark>{request.name}</mark> : request.name}</span>
      <pre><Marked text={pretty(request)} marks={request.marks} /></pre>
      <Cut shown={request.arguments} whole={request.whole} />
    </div>
  );
}

function Cut({ shown, whole }: { shown: string | null; whole?: number }) {
  return whole ? <p class="quiet">… {(whole - (shown ?? "").length).toLocaleString("en-US")} more characters</p> : null;
}

interface Shown {
  message: Message;
  after?: ComponentChildren;
}

export function MessageView({ message, after }: Shown) {
  const role = message.role === "tool" ? `result of ${message.tool}` : message.role;
  return (
    <article class={`message ${message.role}${message.same ? " same" : ""}`} aria-label={role}>
      <header>
        <span class="role">{role}</span>
        {message.latency_s !== undefined && <span class="quiet">{seconds(message.latency_s)}</span>}
        {message.same && <span class="quiet" title="the attempt that it is compared with says the same here">same</span>}
      </header>
      {message.reasoning && <details><summary>thoughts</summary><pre>{message.reasoning}</pre></details>}
      {message.content && <pre class="said"><Marked text={message.content} marks={message.marks} /></pre>}
      <Cut shown={message.content} whole={message.whole} />
      {message.requests?.map((request) => <Request request={request} />)}
      {!message.content && !message.requests?.length && <p class="quiet">(empty)</p>}
      {message.error && <p class="problem">the tool failed: {message.error}</p>}
      {after}
    </article>
  );
}

export function Tools({ tools }: { tools: Tool[] }) {
  if (!tools.length) return null;
  return (
    <details class="tools">
      <summary>{tools.length === 1 ? "1 tool" : `${tools.length} tools`}: {tools.map((tool) => tool.name).join(", ")}</summary>
      <dl>
        {tools.map((tool) => (
          <>
            <dt class="tool-name">{tool.name}</dt>
            <dd>{tool.description}<pre>{json(tool.parameters)}</pre></dd>
          </>
        ))}
      </dl>
    </details>
  );
}

/** Many messages at once cost time: beyond the first hundred they are asked for. */
export function MessageList({ messages, after }: { messages: Message[]; after?: (message: Message) => ComponentChildren }) {
  const [limit, setLimit] = useState(100);
  return (
    <>
      {messages.slice(0, limit).map((message) => <MessageView message={message} after={after?.(message)} />)}
      {messages.length > limit && (
        <button onClick={() => setLimit(limit + 200)}>{messages.length - limit} more messages</button>
      )}
    </>
  );
}
