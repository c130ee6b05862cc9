// Everything by keyboard; letters do nothing while somebody types.

import { el, key, part } from "./dom.js";
import { STALE_AFTER_S } from "./health.js";
import { save, saved } from "./saved.js";
import { changed } from "./state.js";

const TYPING = "input:not([type=range]):not([type=radio]), textarea, select";
const NAMES = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", Home: "Home" };
const STALE_CHOICES_S = [5, STALE_AFTER_S, 30, 60, 300, 900];

/** Bind keys, each { keys, words, action(key) }, and list them in the help. */
export function bindKeys(state, bindings) {
  fillHelp(state, bindings);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    // A field of a dialog that was just closed may still have the focus for a moment.
    if (event.target.closest?.(TYPING)?.checkVisibility()) {
      if (event.key === "Escape") event.target.blur(); // back to the keys
      return;
    }
    if (event.key === " " && event.target.closest?.("button, a, summary")) return;
    const binding = bindings.find(({ keys }) => keys.includes(event.key) || keys.includes(event.key.toLowerCase()));
    if (!binding) return;
    event.preventDefault();
    binding.action(event.key);
  });
}

function fillHelp(state, bindings) {
  const stale = el("select", {
    onchange: () => {
      save("stale", stale.value);
      changed(state);
    },
  }, ...STALE_CHOICES_S.map((seconds) => el("option", { value: seconds }, seconds < 120 ? `${seconds} s` : `${seconds / 60} min`)));
  stale.value = saved("stale") ?? String(STALE_AFTER_S);
  part("help").replaceChildren(
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", { class: "key-list" }, ...bindings.map(({ keys, words }) =>
      el("div", {}, el("dt", {}, ...keys.filter((each) => each !== "=").map((each) => key(NAMES[each] ?? each.toUpperCase()))),
        el("dd", {}, words)))),
    el("h2", {}, "Settings of this browser"),
    el("label", { class: "inline" }, "Grey when no new frame came for", stale),
    el("form", { method: "dialog", class: "buttons" }, el("button", { class: "button" }, "Close ", key("Esc"))));
}
