// Recent frames, newest first; a filter asks the server, so that it reaches further back than the page remembers.

import { ask } from "./api.js";
import { el, part, say } from "./dom.js";
import { THUMB_WIDTH, frameUrl, matches, recordFrom } from "./record.js";
import { changed, shown } from "./state.js";
import { MARKS, clock, shortVerdict, verdictOf, words } from "./words.js";

const MOST_THUMBS = 60;

/** The strip; onPick(record): somebody wants to look at this frame. */
export class Strip {
  #state;
  #list = part("strip");
  #count = part("strip-count");
  #thumbs = new Map(); // seq → { item, key }
  #found = new Map(); // records the server found for the filter
  #asking = null;
  #onPick;

  constructor(state, onPick) {
    this.#state = state;
    this.#onPick = onPick;
    this.#list.addEventListener("wheel", (event) => {
      if (event.deltaX || event.shiftKey) return;
      this.#list.scrollLeft += event.deltaY;
    }, { passive: true });
  }

  /** Records on the strip, newest first. */
  records() {
    const all = new Map([...this.#found, ...this.#state.records]);
    return [...all.values()].filter((record) => matches(record, this.#state.filter))
      .sort((left, right) => right.seq - left.seq).slice(0, MOST_THUMBS);
  }

  /** Build what depends on the model. */
  begin() {
    this.#found.clear();
    const classes = this.#state.model.levels.flatMap((level) => level.classes.map((each) => each.name));
    const choices = [
      ["class", "Class", [["", "all classes"], ...classes.map((name) => [name, words(name)])]],
      ["gate", "Gate", [["", "any gate"], ...GATES.map((name) => [name, `failed: ${words(name)}`])]],
      ["reviewed", "Reviewed", [["", "reviewed or not"], ["no", "not reviewed"], ["accepted", "accepted"],
        ["overridden", "overridden"]]],
    ];
    part("filters").replaceChildren(...choices.map(([name, label, options]) => el("select", {
      "aria-label": label, name, onchange: (event) => this.#filter(name, event.target.value),
    }, ...options.map(([value, text]) => el("option", { value }, text)))));
  }

  /** Bring the strip up to date. */
  show() {
    const records = this.records();
    const current = (this.#state.onStage ?? shown(this.#state))?.seq;
    nameReport(records);
    const wanted = new Set(records.map((record) => record.seq));
    for (const [seq, thumb] of this.#thumbs) {
      if (!wanted.has(seq)) {
        thumb.item.remove();
        this.#thumbs.delete(seq);
      }
    }
    records.forEach((record, index) => {
      const thumb = this.#thumb(record);
      if (this.#list.children[index] !== thumb.item) this.#list.insertBefore(thumb.item, this.#list.children[index] ?? null);
      thumb.button.setAttribute("aria-current", String(record.seq === current));
    });
    const isFiltered = Object.values(this.#state.filter).some(Boolean);
    say(this.#count, isFiltered ? `${records.length} found` : "");
    this.#list.classList.toggle("empty", records.length === 0);
  }

  /** The frame before (+1) or after (-1) the one on show. */
  step(by) {
    const records = this.records();
    const at = records.findIndex((record) => record.seq === shown(this.#state)?.seq);
    const next = records[at < 0 ? 0 : at + by];
    if (!next) return;
    this.#onPick(next);
    this.#thumbs.get(next.seq)?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #thumb(record) {
    const { state } = verdictOf(record, []);
    const reviewed = record.review ? REVIEWED[record.review.isAccepted] : "";
    const known = this.#thumbs.get(record.seq);
    if (known?.key === reviewed) return known;
    const address = frameUrl(record, THUMB_WIDTH);
    const picture = address ? el("img", { src: address, alt: "", loading: "lazy" }) : el("span", { class: "no-picture" });
    picture.addEventListener("error", () => picture.replaceWith(el("span", { class: "no-picture" })), { once: true });
    const button = el("button", {
      type: "button", class: `thumb ${state}`, "data-seq": record.seq, onclick: () => this.#onPick(record),
      title: `${record.seq} · ${record.name} · ${clock(record.time)} · ${shortVerdict(record)}`,
    }, picture, el("span", { class: "thumb-words" },
      el("span", { class: "mark", "aria-hidden": "true" }, MARKS[state]), " ", shortVerdict(record)),
    reviewed && el("span", { class: "thumb-review", title: reviewed },
      record.review.isAccepted ? "✓" : "✎"));
    const item = el("li", {}, button);
    known?.item.replaceWith(item);
    const thumb = { item, button, key: reviewed };
    this.#thumbs.set(record.seq, thumb);
    return thumb;
  }

  async #filter(name, value) {
    this.#state.filter[name] = value;
    this.#found.clear();
    changed(this.#state);
    this.#asking?.abort();
    const asked = new URLSearchParams({ limit: MOST_THUMBS });
    for (const [key, wish] of Object.entries(this.#state.filter)) if (wish) asked.set(key, wish);
    if (asked.size === 1) return;
    this.#asking = new AbortController();
    try {
      const answer = await ask(`/v1/records?${asked}`, { signal: this.#asking.signal });
      for (const json of answer.records) this.#found.set(json.seq, recordFrom(json));
      changed(this.#state);
    } catch (error) {
      if (error.name !== "AbortError") say(this.#count, error.message);
    }
  }
}

/** The report in the header is about the frames on the strip. */
function nameReport(records) {
  const link = part("session-report");
  link.hidden = records.length === 0;
  if (records.length) link.href = `/v1/report.pdf?${new URLSearchParams({ first: records.at(-1).seq, last: records[0].seq })}`;
}

const REVIEWED = { true: "accepted", false: "overridden" };
const GATES = ["incomplete", "blank", "black", "saturated", "frozen", "blurred", "pixel_size", "out_of_distribution"];
