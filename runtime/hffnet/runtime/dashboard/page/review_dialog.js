// A person's word on a record: accepted, or decided otherwise with a reason. It stands beside the model's, never instead.

import { csrf, tell } from "./api.js";
import { el, part, say } from "./dom.js";
import { THUMB_WIDTH, frameUrl, reviewFrom } from "./record.js";
import { save, saved } from "./saved.js";
import { changed } from "./state.js";
import { pathWords, verdictOf, words } from "./words.js";

/** Ask a person; onDone(review) when the server has stored it. The frame stays on show for as long as the question. */
export function openReview(state, record, decision, onDone) {
  const dialog = part("review-dialog");
  if (dialog.open) return;
  const before = state.held;
  state.held = record;
  dialog.addEventListener("close", () => {
    state.held = before;
    changed(state);
  }, { once: true });
  const form = reviewForm(state, record, decision, () => dialog.close());
  form.element.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.busy(true);
    try {
      save("operator", form.operator.value.trim());
      const answer = await tell(`/v1/records/${record.seq}/review`, form.document(), await csrf());
      dialog.close();
      onDone(reviewFrom(answer.review));
    } catch (error) {
      form.complain(error.message);
    } finally {
      form.busy(false);
    }
  });
  dialog.replaceChildren(form.element);
  dialog.showModal();
  form.focus();
}

function reviewForm(state, record, decision, onCancel) {
  const { levels } = state.model;
  const isOverride = decision === "override";
  const operator = el("input", { name: "operator", required: true, maxlength: 200, autocomplete: "off", value: saved("operator") ?? "" });
  const reason = el("textarea", { name: "reason", rows: 2, maxlength: 2000, required: isOverride });
  const classes = isOverride ? classChoice(levels, record) : null;
  const message = el("p", { class: "complaint", role: "alert" });
  const submit = el("button", { class: "button accept", type: "submit" }, isOverride ? "Store this decision" : "Accept");
  const { title } = verdictOf(record, levels);
  const address = frameUrl(record, THUMB_WIDTH);
  const element = el("form", { method: "dialog", class: "review-form" },
    el("h2", { id: "review-dialog-title" }, isOverride ? `Override record ${record.seq}` : `Accept record ${record.seq}`),
    el("div", { class: "subject" }, address && el("img", { src: address, alt: `Frame ${record.seq}` }),
      el("p", {}, el("span", { class: "faint" }, "The model says"), el("br"),
        el("strong", {}, record.answer.length ? pathWords(record.answer) : title), el("br"),
        el("span", { class: "faint" }, "Your word becomes a row of its own; the model's stays as it is."))),
    classes?.element,
    el("label", {}, el("span", {}, "Operator"), operator),
    el("label", {}, el("span", {}, isOverride ? "Reason" : "Reason (may be left out)"), reason),
    message,
    el("div", { class: "buttons" }, submit, el("button", { class: "button quiet", type: "button", onclick: onCancel }, "Cancel")));
  return {
    element, operator,
    document: () => ({
      decision, operator: operator.value.trim(), reason: reason.value.trim() || null, path: classes ? classes.path() : record.answer,
    }),
    busy: (isBusy) => { submit.disabled = isBusy; },
    complain: (sentence) => say(message, sentence),
    focus: () => (!operator.value ? operator : isOverride ? classes.first : submit).focus(),
  };
}

function classChoice(levels, record) {
  const radios = [];
  const branch = (level, above) => el("ul", {}, ...levels[level].classes
    .filter((each) => level === 0 || each.parent === above.at(-1))
    .map((each) => {
      const path = [...above, each.name];
      const radio = el("input", { type: "radio", name: "path", required: true, value: path.join("/") });
      radios.push({ radio, path });
      const isModels = record.answer.length === path.length && path.every((name, at) => name === record.answer[at]);
      return el("li", {}, el("label", { class: "choice" }, radio, " ", words(each.name), isModels && el("span", { class: "faint" }, " (the model's)")),
        level + 1 < levels.length && branch(level + 1, path));
    }));
  return {
    element: el("fieldset", { class: "choices" }, el("legend", {}, "It is"), branch(0, [])),
    path: () => radios.find(({ radio }) => radio.checked)?.path ?? [],
    first: radios[0].radio,
  };
}
