// Numbers and times as a person reads them.
import type { Maybe } from "./api";

export const DASH = "–";

export function number(value: Maybe, digits = 3): string {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10_000) return Math.round(value).toLocaleString("en-US");
  if (size < 0.001 || size >= 1e6) return value.toExponential(1);
  if (Number.isInteger(value)) return String(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 10 ? 1 : digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

export function percent(value: Maybe): string {
  if (value === null || value === undefined) return DASH;
  return `${Number((100 * value).toFixed(1))} %`;
}

export function seconds(value: Maybe): string {
  if (value === null || value === undefined) return DASH;
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export function usd(value: Maybe): string {
  if (value === null || value === undefined) return "not known";
  return value === 0 ? "0 USD" : `${value < 0.01 ? value.toPrecision(2) : value.toFixed(2)} USD`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en-US")} ${count === 1 ? one : many}`;
}

export function json(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
