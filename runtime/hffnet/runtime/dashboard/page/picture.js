// A frame with its scale bar and, over it, the evidence for one class. Frame and evidence change together.

import { el, say } from "./dom.js";
import { evidenceUrl, frameUrl } from "./record.js";
import { barLengthUm, length, words } from "./words.js";

const MOST_WIDTH = 2048;
const WIDTH_STEP = 256; // sizes asked for are rounded up to this, so that a dragged window does not ask for each pixel

/** What is drawn into a stage element. */
export class Picture {
  #stage;
  #message = el("p", { class: "stage-message" });
  #bar = el("div", { class: "scale-bar" });
  #ramp = el("p", { class: "ramp" }, "little", el("i", { "aria-hidden": "true" }), "much evidence");
  #frame = null;
  #evidence = null;
  #on = { seq: null, evidence: null, width: 0 };
  #wanted = null;
  #isLoading = false;

  #onShown;

  /** waiting: what is said until the first picture is there. onShown(record): from now on people see this record's
   *  picture, or the word that there is none. */
  constructor(stage, waiting, onShown = () => {}) {
    this.#stage = stage;
    this.#onShown = onShown;
    stage.replaceChildren(this.#message, this.#ramp, this.#bar);
    say(this.#message, waiting);
    this.#bar.hidden = true;
    this.#ramp.hidden = true;
  }

  /** Show a record; evidence is { level, class, opacity } or null. Calls while a picture loads: the last one counts. */
  show(record, evidence) {
    this.#wanted = { record, evidence };
    if (this.#evidence && evidence) this.#evidence.style.opacity = evidence.opacity;
    if (!this.#isLoading) this.#load();
  }

  /** Another model or another records file: the same number is another frame now. */
  forget() {
    this.#on = { seq: null, evidence: null, width: 0 };
  }

  async #load() {
    this.#isLoading = true;
    while (this.#wanted) {
      const { record, evidence } = this.#wanted;
      this.#wanted = null;
      const wish = { seq: record.seq, evidence: evidenceKey(record, evidence), width: this.#width(record) };
      if (wish.seq === this.#on.seq && wish.evidence === this.#on.evidence && wish.width <= this.#on.width) continue;
      await this.#change(record, evidence, wish);
    }
    this.#isLoading = false;
  }

  async #change(record, evidence, wish) {
    const isSame = wish.seq === this.#on.seq && wish.width <= this.#on.width && this.#frame;
    const [frame, map] = await Promise.all([
      isSame ? this.#frame : loaded(frameUrl(record, wish.width)),
      wish.evidence && loaded(evidenceUrl(record, evidence.level, evidence.class)),
    ]);
    this.#on = wish;
    this.#frame?.remove();
    this.#evidence?.remove();
    this.#frame = frame;
    this.#evidence = map;
    const missing = !frame ? "No picture is kept of this frame" : wish.evidence && !map ? `Evidence for ${words(evidence.class)} is not kept any more` : "";
    say(this.#message, missing);
    this.#message.hidden = !missing;
    if (frame) {
      frame.className = "frame";
      frame.alt = `Frame ${record.seq}: ${record.name}`;
      this.#stage.style.setProperty("--ratio", frame.naturalWidth / frame.naturalHeight);
      this.#stage.prepend(frame);
    }
    if (frame && map) {
      map.className = "evidence";
      map.alt = `Evidence for ${evidence.class}`;
      map.style.opacity = evidence.opacity;
      frame.after(map);
    }
    this.#ramp.hidden = !frame || !map;
    this.#drawBar(record, Boolean(frame));
    this.#stage.dataset.seq = record.seq;
    this.#stage.dataset.evidence = map ? evidence.class : "";
    this.#onShown(record);
  }

  #width(record) {
    const wide = Math.ceil((this.#stage.clientWidth * devicePixelRatio) / WIDTH_STEP) * WIDTH_STEP || WIDTH_STEP;
    return Math.min(wide, MOST_WIDTH, record.width ?? MOST_WIDTH);
  }

  #drawBar(record, hasFrame) {
    const { width } = record;
    this.#bar.hidden = !hasFrame;
    if (!width || !record.pixelSizeUm) {
      this.#bar.replaceChildren(el("span", {}, "scale not known"));
      return;
    }
    const um = barLengthUm(width, record.pixelSizeUm);
    const line = el("i");
    this.#bar.style.setProperty("--share", um / (width * record.pixelSizeUm));
    this.#bar.replaceChildren(line, el("span", {}, length(um)));
  }
}

function evidenceKey(record, evidence) {
  return evidence && record.status === "classified" ? `${evidence.level}/${evidence.class}` : null;
}

async function loaded(url) {
  if (!url) return null;
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    return null; // no longer kept, or the server is away: said in words instead
  }
}
