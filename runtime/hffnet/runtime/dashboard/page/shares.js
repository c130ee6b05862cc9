// Which share of the frames showed what, over time: stacked bars, one colour per class, greys where nothing was answered.

import { ask } from "./api.js";
import { el, part, svg } from "./dom.js";
import { save, saved } from "./saved.js";
import { binsFrom } from "./record.js";
import { isWordy } from "./tree.js";
import { clock, words } from "./words.js";

const SPANS_MIN = [["5", "5 min"], ["15", "15 min"], ["60", "1 hour"], ["480", "8 hours"]];
const BINS = 30;
const REFRESH_MS = 5000;
const WIDTH = 300;
const HEIGHT = 96;
const UPPER = "/upper"; // answered, but not down to a leaf; no class has a slash in its name
const UNSURE = "/unsure";
const REFUSED = "/refused";

/** The chart, which asks the server now and then while the page is looked at. */
export class Shares {
  #state;
  #span = part("shares-minutes");
  #timer = null;

  constructor(state) {
    this.#state = state;
    this.#span.replaceChildren(...SPANS_MIN.map(([value, text]) => el("option", { value }, text)));
    this.#span.value = saved("minutes") ?? "5";
    this.#span.addEventListener("change", () => {
      save("minutes", this.#span.value);
      this.refresh();
    });
  }

  /** Ask now, and again after a while. */
  async refresh() {
    clearTimeout(this.#timer);
    if (!document.hidden && this.#state.model) {
      try {
        this.#draw(binsFrom(await ask(`/v1/shares?bins=${BINS}&minutes=${this.#span.value}`)));
      } catch {
        // The banner tells that the server is away; the last chart stays until then.
      }
    }
    this.#timer = setTimeout(() => this.refresh(), REFRESH_MS);
  }

  #draw(bins) {
    const { levels } = this.#state.model;
    const order = categories(levels);
    const totals = new Map(order.map(({ name }) => [name, 0]));
    const columns = bins.flatMap((bin, index) => stack(countsOf(bin, levels), index, bins.length, order, totals));
    const sum = [...totals.values()].reduce((left, right) => left + right, 0);
    const chart = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "chart", role: "img",
      "aria-label": spoken(order, totals, sum),
    }, ...columns);
    const axis = el("p", { class: "axis" }, el("span", {}, clock(bins[0].start)), el("span", {}, "now"));
    const legend = el("ul", { class: "legend" }, ...order.filter(({ name }) => totals.get(name)).map((each) =>
      el("li", {}, swatch(each.tone), el("span", { class: "legend-name" }, each.words),
        el("span", { class: "legend-share" }, `${Math.round((100 * totals.get(each.name)) / sum)} %`))));
    part("shares").classList.toggle("wordy", isWordy(levels));
    part("shares").replaceChildren(chart, axis, sum ? legend : el("p", { class: "faint" }, "No frames in this span"));
  }
}

/** Colour number of a leaf, the same everywhere on the page. */
export function toneOf(levels, name) {
  const at = levels.at(-1).classes.findIndex((each) => each.name === name);
  return at < 0 ? null : at % 7;
}

function categories(levels) {
  const leaves = levels.at(-1).classes.map(({ name }) => ({ name, words: words(name), tone: `tone-${toneOf(levels, name)}` }));
  return [...leaves, { name: UPPER, words: "upper level only", tone: "tone-inner" },
    { name: UNSURE, words: "unsure", tone: "tone-unsure" }, { name: REFUSED, words: "not classified", tone: "tone-refused" }];
}

/** How many frames of a bin belong to each category; what was answered above the leaves only is what is left over. */
function countsOf(bin, levels) {
  const leaves = Object.entries(bin.shares[levels.at(-1).name] ?? {});
  const others = [...leaves, [UNSURE, bin.unsure], [REFUSED, bin.refused]];
  const upper = 1 - others.reduce((sum, [, share]) => sum + share, 0);
  return new Map([...others, [UPPER, upper]].map(([name, share]) => [name, Math.round(share * bin.num)]));
}

function stack(counts, index, numBins, order, totals) {
  const sum = [...counts.values()].reduce((total, count) => total + count, 0);
  const width = WIDTH / numBins;
  let top = HEIGHT;
  return order.filter(({ name }) => counts.get(name)).map(({ name, tone }) => {
    totals.set(name, totals.get(name) + counts.get(name));
    const height = (HEIGHT * counts.get(name)) / sum;
    top -= height;
    return svg("rect", { x: index * width + 0.5, y: top, width: width - 1, height, class: tone });
  });
}

function swatch(tone) {
  return svg("svg", { viewBox: "0 0 10 10", class: "swatch", "aria-hidden": "true" },
    svg("rect", { width: 10, height: 10, rx: 2, class: tone }));
}

function spoken(order, totals, sum) {
  const shares = order.filter(({ name }) => totals.get(name))
    .map((each) => `${each.words} ${Math.round((100 * totals.get(each.name)) / sum)} %`);
  return shares.length ? `Shares: ${shares.join(", ")}` : "No frames in this span";
}
