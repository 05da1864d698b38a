// One small chart by step: several lines, or points with their interval. Values under the pointer stand in the legend.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { DASH, number } from "../format";

export interface Line {
  label: string;
  values: (number | null)[];
  /** Lower and upper ends, drawn as error bars. */
  bars?: ([number, number] | null)[];
  color: string;
  dash?: number[];
  points?: boolean;
}

interface Props {
  title: string;
  unit?: string;
  steps: number[];
  lines: Line[];
  range?: [number, number];
  about?: string;
}

const HEIGHT = 150;

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function useDark(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const changed = () => setDark(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return dark;
}

function drawBars(chart: uPlot, lines: Line[]): void {
  const { ctx } = chart;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  lines.forEach((line) => {
    if (!line.bars) return;
    ctx.strokeStyle = css(line.color);
    line.bars.forEach((bar, index) => {
      if (!bar) return;
      const x = chart.valToPos(chart.data[0][index]!, "x", true);
      const low = chart.valToPos(bar[0], "y", true);
      const high = chart.valToPos(bar[1], "y", true);
      const cap = 3 * devicePixelRatio;
      ctx.beginPath();
      ctx.moveTo(x, low);
      ctx.lineTo(x, high);
      for (const y of [low, high]) {
        ctx.moveTo(x - cap, y);
        ctx.lineTo(x + cap, y);
      }
      ctx.stroke();
    });
  });
  ctx.restore();
}

function options(props: Props, width: number): uPlot.Options {
  const axis = {
    stroke: css("--quiet"),
    font: `11px ${css("--font")}`,
    grid: { stroke: css("--line"), width: 1 },
    ticks: { show: false },
    gap: 4,
  };
  return {
    width,
    height: HEIGHT,
    padding: [6, 8, 0, 0],
    cursor: { sync: { key: "steps" }, y: false, points: { size: 6 }, drag: { x: true, y: false } },
    scales: {
      x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
      ...(props.range ? { y: { range: () => props.range! } } : {}),
    },
    axes: [
      { ...axis, size: 22, space: 36, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
      { ...axis, size: 46, space: 28, values: (_, ticks) => ticks.map((tick) => number(tick, 4)) },
    ],
    series: [
      { label: "step", value: (_: uPlot, value: number | null) => (value === null || value === undefined ? DASH : String(value)) },
      ...props.lines.map((line) => ({
        label: line.label,
        stroke: css(line.color),
        width: 1.5,
        dash: line.dash,
        spanGaps: true,
        points: line.points ? { show: true, size: 7, fill: css(line.color) } : { show: props.steps.length < 3, size: 5 },
        value: (_: uPlot, value: number | null, seriesIndex: number, index: number | null) => {
          const bar = index === null ? null : props.lines[seriesIndex - 1]?.bars?.[index];
          return number(value) + (bar ? ` [${number(bar[0])}, ${number(bar[1])}]` : "");
        },
      })),
    ],
    hooks: { draw: [(chart) => drawBars(chart, props.lines)] },
  };
}

function summary({ title, lines, steps }: Props): string {
  const said = lines.map((line) => {
    const known = line.values.filter((value) => value !== null);
    if (!known.length) return `${line.label}: no values`;
    return `${line.label}: ${number(known[0])} at first, ${number(known[known.length - 1])} at last`;
  });
  return `${title} over ${steps.length} steps. ${said.join(". ")}`;
}

export function Chart(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const dark = useDark();
  const shape = props.lines.map((line) => line.label + line.color).join();
  useEffect(() => {
    const data = [props.steps, ...props.lines.map((line) => line.values)] as uPlot.AlignedData;
    const made = new uPlot(options(props, box.current!.clientWidth), data, box.current!);
    chart.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: box.current!.clientWidth, height: HEIGHT }));
    watch.observe(box.current!);
    return () => {
      watch.disconnect();
      made.destroy();
    };
    // New values of the same lines are set below, so that the pointer keeps its place.
  }, [shape, dark, props.lines.some((line) => line.bars) ? JSON.stringify(props.lines.map((line) => line.bars)) : ""]);
  useEffect(() => {
    chart.current?.setData([props.steps, ...props.lines.map((line) => line.values)] as uPlot.AlignedData);
  }, [props.steps, props.lines]);
  return (
    <figure class="chart" data-chart={props.title}>
      <figcaption title={props.about}>
        {props.title} {props.unit && <span class="quiet">{props.unit}</span>}
      </figcaption>
      <div ref={box} role="img" aria-label={summary(props)} />
      <details class="values">
        <summary>values</summary>
        <div class="scroll">
          <table>
            <thead><tr><th>step</th>{props.lines.map((line) => <th>{line.label}</th>)}</tr></thead>
            <tbody>
              {props.steps.map((step, index) => (
                <tr><td>{step}</td>{props.lines.map((line) => <td>{number(line.values[index])}</td>)}</tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}
