// Picture and decision of the frame on show: the newest, or the one a person holds.

import { flagParts, reviewParts, spokenWords, verdictParts } from "./decision.js";
import { part, say } from "./dom.js";
import { evidenceFor, pickEvidence } from "./evidence.js";
import { Picture } from "./picture.js";
import { changed, shown } from "./state.js";
import { TreeView } from "./tree.js";

const SPEAK_MS = 3000; // decisions are read aloud at most this often

/** The two large panels; onReview(record, decision): somebody has something to say.
 *
 *  Picture and decision change together: a decision is shown when its picture is, so that neither is taken for the
 *  other frame's. Where frames come faster than pictures load, some are passed over. */
export class LivePanel {
  #state;
  #onReview;
  #picture;
  #tree = null;
  #drawn = ""; // what the panel shows: rebuilt only when that changes, so that focus stays
  #spoken = { seq: null, at: -Infinity };

  constructor(state, onReview) {
    this.#state = state;
    this.#onReview = onReview;
    this.#picture = new Picture(part("stage"), "Waiting for the first frame", (record) => {
      state.onStage = record;
      changed(state);
    });
  }

  /** Build what depends on the model. */
  begin() {
    const { levels, minConfidence } = this.#state.model;
    this.#tree = new TreeView(part("tree"), levels, (level, name) => pickEvidence(this.#state, level, name), minConfidence);
    this.#picture.forget();
    this.#drawn = "";
  }

  /** Bring it up to date. */
  show() {
    const state = this.#state;
    part("to-live").hidden = state.held === null;
    const wanted = shown(state);
    if (wanted && !part("live").hidden) this.#picture.show(wanted, evidenceFor(state, wanted));
    const record = state.onStage;
    if (!record || !this.#tree) return;
    this.#tree.show(record, state.model.levels, evidenceFor(state, record));
    const key = `${record.seq}/${record.review?.seq ?? ""}`;
    if (this.#drawn !== key) this.#draw(record);
    this.#drawn = key;
  }

  #draw(record) {
    const { state: name, parts } = verdictParts(record, this.#state.model);
    say(part("picture-title"), `#${record.seq} · ${record.name}`);
    part("picture-title").title = record.name;
    part("verdict").className = `verdict ${name}`;
    part("verdict").replaceChildren(...parts);
    part("notes").replaceChildren(...flagParts(record));
    replaceKeepingFocus(part("review"), reviewParts(record, (decision) => this.#onReview(record, decision), true));
    this.#speak(record);
  }

  #speak(record) {
    const now = performance.now();
    if (record.seq === this.#spoken.seq || now - this.#spoken.at < SPEAK_MS) return;
    this.#spoken = { seq: record.seq, at: now };
    say(part("spoken"), spokenWords(record, this.#state.model));
  }
}

function replaceKeepingFocus(container, children) {
  const at = [...container.querySelectorAll("button, a")].indexOf(document.activeElement);
  container.replaceChildren(...children);
  if (at >= 0) container.querySelectorAll("button, a")[at]?.focus();
}
