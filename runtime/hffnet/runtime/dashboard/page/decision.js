// What was decided, in words large enough for arm's length, and what a person said about it.

import { el, key } from "./dom.js";
import { failedGates } from "./record.js";
import { MARKS, clock, pathWords, percent, reviewWords, verdictOf, words } from "./words.js";

/** Verdict, path and confidence of a record. */
export function verdictParts(record, model) {
  const levels = model?.levels ?? [];
  const { state, title, kicker } = verdictOf(record, levels);
  const confidence = record.answer.length ? record.confidence[record.answer.length - 1] : null;
  const parts = [
    el("p", { class: "kicker" }, el("span", { class: "mark", "aria-hidden": "true" }, MARKS[state]), " ", kicker),
    el("p", { class: "title" }, title),
  ];
  if (confidence !== null) {
    parts.push(el("p", { class: "path" }, el("span", {}, pathWords(record.answer)), el("strong", {}, percent(confidence))));
  }
  if (record.reason) parts.push(el("p", { class: "reason" }, record.reason));
  if (record.modes.length) {
    parts.push(el("p", { class: "reason" }, `Mixed field: ${record.modes.map(pathWords).join("; ")}.`));
  }
  if (record.path.length > record.answer.length) parts.push(el("p", { class: "reason" }, unsureWords(record, model)));
  return { state, parts };
}

/** Gates that left a flag on a frame that was classified all the same. */
export function flagParts(record) {
  if (record.status !== "classified") return [];
  return failedGates(record).map((gate) =>
    el("p", { class: "flag" }, el("strong", {}, `Flag: ${words(gate.name)}. `), gate.reason));
}

/** What a person said, and the buttons to say it. */
export function reviewParts(record, onReview, onOpen) {
  const said = record.review;
  const canAccept = record.answer.length > 0;
  return [
    said && reviewNote(said),
    el("div", { class: "buttons" },
      el("button", {
        type: "button", class: "button accept", disabled: !canAccept, onclick: () => onReview("accept"),
        title: canAccept ? null : "There is no answer to accept; override says what it is",
      }, "Accept ", key("A")),
      el("button", { type: "button", class: "button", onclick: () => onReview("override") }, "Override ", key("O")),
      onOpen && el("a", { class: "button quiet", href: `#/record/${record.seq}` }, "Record ", key("R"))),
  ].filter(Boolean);
}

/** A person's word, beside the model's. */
export function reviewNote(said) {
  const { isAccepted } = said;
  return el("p", { class: isAccepted ? "said accepted" : "said overridden" },
    el("span", { class: "mark", "aria-hidden": "true" }, isAccepted ? "✓" : "✎"), " ",
    el("strong", {}, said.operator), ` ${reviewWords(said)}`,
    ` at ${clock(said.time)}`, said.reason ? `: ${said.reason}` : "");
}

/** The decision as one sentence, to be read aloud. */
export function spokenWords(record, model) {
  const { title, kicker } = verdictOf(record, model?.levels ?? []);
  if (!record.answer.length) return record.reason ? `${title}: ${record.reason}` : `${kicker}.`;
  return `${kicker}: ${record.answer.map(words).join(", ")}, ${percent(record.confidence[record.answer.length - 1])}.`;
}

function unsureWords(record, model) {
  const at = record.answer.length;
  const likeliest = `Most probable: ${words(record.path[at])}, ${percent(record.confidence[at])}`;
  return model?.minConfidence ? `${likeliest}. An answer needs ${percent(model.minConfidence)}.` : `${likeliest}.`;
}
