// Which class's evidence lies over the frame: the answer's, until a person picks another.

import { el, key, say } from "./dom.js";
import { save } from "./saved.js";
import { changed, shown } from "./state.js";
import { words } from "./words.js";

const STEP = 0.1;

/** What to lay over this record: { level, class, opacity }, or null where the overlay is off or nothing was scored. */
export function evidenceFor(state, record) {
  const choice = state.evidence;
  if (!choice.on || !state.model || !record?.path.length) return null;
  const depth = state.model.levels.length;
  const level = choice.level ?? Math.max(0, Math.min(record.answer.length || depth, depth) - 1);
  return { level: state.model.levels[level].name, class: choice.class ?? record.path[level], opacity: choice.opacity };
}

/** Overlay on or off. */
export function toggleEvidence(state) {
  setEvidence(state, { on: !state.evidence.on });
}

/** Pick a class of a level; the same again goes back to the answer's. */
export function pickEvidence(state, level, name) {
  const isSame = state.evidence.on && state.evidence.level === level && state.evidence.class === name;
  setEvidence(state, isSame ? { level: null, class: null } : { on: true, level, class: name });
}

/** The next level, its answered class. */
export function nextLevel(state) {
  const { levels } = state.model;
  const now = state.evidence.level ?? levels.length - 1;
  setEvidence(state, { on: true, level: (now + 1) % levels.length, class: null });
}

/** The next or previous class of the level. */
export function stepClass(state, step) {
  const record = shown(state);
  const now = evidenceFor({ ...state, evidence: { ...state.evidence, on: true } }, record);
  if (!now) return;
  const level = state.model.levels.findIndex((each) => each.name === now.level);
  const names = state.model.levels[level].classes.map((each) => each.name);
  const at = names.indexOf(now.class);
  setEvidence(state, { on: true, level, class: names[(at + step + names.length) % names.length] });
}

/** More or less of the overlay. */
export function stepOpacity(state, direction) {
  const opacity = Math.min(1, Math.max(0.1, state.evidence.opacity + direction * STEP));
  setEvidence(state, { on: true, opacity: Math.round(opacity * 10) / 10 });
}

/** The controls under the picture. */
export function evidenceTools(container, state) {
  const toggle = el("button", { type: "button", class: "switch", role: "switch", onclick: () => toggleEvidence(state) },
    el("i", { "aria-hidden": "true" }), "Evidence ", key("E"));
  const choice = el("select", { "aria-label": "Evidence for class", onchange: () => choose(state, choice.value) });
  const opacity = el("input", {
    type: "range", min: 0.1, max: 1, step: STEP, "aria-label": "Opacity of the evidence",
    oninput: () => setEvidence(state, { opacity: Number(opacity.value) }),
  });
  container.replaceChildren(toggle, el("label", { class: "inline" }, el("span", {}, "for"), choice),
    el("label", { class: "inline opacity" }, el("span", {}, "opacity"), opacity));

  let filled = null;
  return () => {
    if (state.model && filled !== state.model) {
      choice.replaceChildren(...options(state.model.levels));
      filled = state.model;
    }
    const { on, level, class: name } = state.evidence;
    toggle.setAttribute("aria-checked", String(on));
    container.classList.toggle("off", !on);
    choice.value = level === null ? "" : JSON.stringify([level, name]);
    opacity.value = state.evidence.opacity;
    const now = evidenceFor(state, state.onStage);
    if (choice.options.length) say(choice.options[0], now && level === null ? `the answer: ${words(now.class)}` : "the answer");
  };
}

function options(levels) {
  const groups = levels.map((level, index) => el("optgroup", { label: words(level.name) },
    el("option", { value: JSON.stringify([index, null]) }, `answer at ${words(level.name)}`),
    ...level.classes.map((each) => el("option", { value: JSON.stringify([index, each.name]) }, words(each.name)))));
  return [el("option", { value: "" }, "the answer"), ...groups];
}

function choose(state, value) {
  const [level, name] = value ? JSON.parse(value) : [null, null];
  setEvidence(state, { on: true, level, class: name });
}

function setEvidence(state, change) {
  Object.assign(state.evidence, change);
  save("evidence", state.evidence.on ? "on" : "off");
  save("opacity", String(state.evidence.opacity));
  changed(state);
}
