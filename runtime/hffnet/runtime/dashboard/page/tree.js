// The class tree with a probability at every node, the decision as the path through it.

import { el, say } from "./dom.js";
import { percent, words } from "./words.js";

const SMALL = 14; // up to so many rows a tree is shown whole; in a larger one, branches off the path are folded
const FOLDED_BELOW = 0.02;
const LONG_NAME = 17; // letters that stand on one line beside the bars

/** Whether class names need more room: the end of a name often is what tells two classes apart. */
export function isWordy(levels) {
  return levels.some((level) => level.classes.some((each) => each.name.length > LONG_NAME));
}

/** Build once for a model. onPick(level, name): somebody asks for a class's evidence. */
export class TreeView {
  #rows = [];
  #isLarge;

  constructor(container, levels, onPick, minConfidence = null) {
    this.#isLarge = levels.reduce((sum, level) => sum + level.classes.length, 0) > SMALL;
    container.replaceChildren(this.#branch(levels, 0, null, onPick, minConfidence));
    container.classList.toggle("wordy", isWordy(levels));
  }

  /** Put a record's probabilities in; picked is { level, class } whose evidence is on show, or null. */
  show(record, levels, picked) {
    for (const row of this.#rows) {
      const share = record?.probabilities.get(levels[row.level].name)?.get(row.name);
      const isOnPath = record?.path[row.level] === row.name;
      const isAnswered = isOnPath && row.level < record.answer.length;
      const isPicked = picked?.level === levels[row.level].name && picked.class === row.name;
      row.fill.style.width = `${(share ?? 0) * 100}%`;
      say(row.share, share === undefined ? "" : percent(share));
      say(row.mark, isAnswered ? "●" : isOnPath ? "○" : "");
      row.button.classList.toggle("answered", isAnswered);
      row.button.classList.toggle("beyond", isOnPath && !isAnswered);
      row.button.setAttribute("aria-pressed", String(isPicked));
      row.button.disabled = share === undefined;
      row.item.hidden = this.#isLarge && row.level > 0 && !isOnPath && (share ?? 0) < FOLDED_BELOW;
    }
  }

  #branch(levels, level, parent, onPick, minConfidence) {
    const classes = levels[level].classes.filter((each) => level === 0 || each.parent === parent);
    return el("ul", { "aria-label": words(levels[level].name) },
      ...classes.map((each) => {
        const row = this.#row(level, each.name, onPick, minConfidence);
        if (level + 1 < levels.length) row.item.append(this.#branch(levels, level + 1, each.name, onPick, minConfidence));
        return row.item;
      }));
  }

  #row(level, name, onPick, minConfidence) {
    const mark = el("span", { class: "row-mark", "aria-hidden": "true" });
    const fill = el("i");
    const share = el("span", { class: "row-share" });
    const bar = el("span", { class: "row-bar" }, fill);
    if (minConfidence) {
      const tick = el("b", { title: `Answers need ${percent(minConfidence)}` });
      tick.style.left = `${minConfidence * 100}%`;
      bar.append(tick);
    }
    const button = el("button", {
      type: "button", class: "row", title: `Show the evidence for ${words(name)}`, onclick: () => onPick(level, name),
    }, mark, el("span", { class: "row-name" }, words(name)), bar, share);
    const item = el("li", {}, button);
    const row = { level, name, mark, fill, share, button, item };
    this.#rows.push(row);
    return row;
  }
}
