// One record with everything that is in it: picture, decision, gates, timings, identity, tiles, people's words.

import { ask } from "./api.js";
import { flagParts, reviewNote, reviewParts, verdictParts } from "./decision.js";
import { el, part, svg } from "./dom.js";
import { evidenceFor, pickEvidence } from "./evidence.js";
import { Picture } from "./picture.js";
import { recordFrom, reviewFrom } from "./record.js";
import { toneOf } from "./shares.js";
import { TreeView } from "./tree.js";
import { milliseconds, pathWords, percent, words } from "./words.js";

/** The page behind #/record/N. */
export class RecordPage {
  #state;
  #room = part("record");
  #onReview;
  #picture = null;
  #tree = null;
  #asked = 0;
  record = null;

  constructor(state, onReview) {
    this.#state = state;
    this.#onReview = onReview;
  }

  /** Fetch and show a record; null closes the page. */
  async open(seq) {
    const asked = (this.#asked += 1);
    const isOther = this.record?.seq !== seq;
    this.#room.hidden = seq === null;
    if (seq === null || !this.#state.model) {
      this.record = null;
      this.#room.replaceChildren();
      return;
    }
    try {
      const whole = await ask(`/v1/records/${seq}`);
      if (asked !== this.#asked) return; // another record was asked for meanwhile
      this.record = recordFrom(whole.summary);
      this.#build(whole);
      this.show();
      if (isOther) this.#room.querySelector("h1").focus();
    } catch (error) {
      this.record = null;
      this.#room.replaceChildren(backLink(), el("p", { class: "complaint", role: "alert" }, error.message));
    }
  }

  /** Bring overlay, tree and people's words up to date. */
  show() {
    const { record } = this;
    if (!record || !this.#tree) return;
    const evidence = evidenceFor(this.#state, record);
    this.#picture.show(record, evidence);
    this.#tree.show(record, this.#state.model.levels, evidence);
    part("record-review").replaceChildren(...reviewParts(record, (decision) => this.#onReview(record, decision)));
  }

  #build(whole) {
    const { record } = this;
    const { model } = this.#state;
    const { state, parts } = verdictParts(record, model);
    const stage = el("figure", { class: "stage" });
    const tree = el("div", { class: "tree" });
    this.#room.replaceChildren(
      el("header", { class: "record-head" }, backLink(), el("h1", { tabindex: -1 }, `Record ${record.seq}`),
        el("p", { class: "name faint" }, record.name),
        el("nav", { "aria-label": "Records" },
          el("a", { class: "button quiet", href: `/v1/records/${record.seq}/report.pdf`, target: "_blank", rel: "noopener" }, "Report (PDF)"),
          el("a", { class: "button quiet", href: `/v1/records/${record.seq}`, target: "_blank", rel: "noopener" }, "JSON"))),
      el("section", { class: "panel picture" }, el("div", { class: "room" }, stage)),
      el("section", { class: "panel decision" }, el("div", { class: `verdict ${state}` }, ...parts),
        el("div", { class: "notes" }, ...flagParts(record)), tree, el("div", { id: "record-review", class: "review" })),
      el("div", { class: "sheets" }, ...this.#sheets(whole)));
    this.#picture = new Picture(stage, "The picture is loading");
    this.#tree = new TreeView(tree, model.levels, (level, name) => pickEvidence(this.#state, level, name), model.minConfidence);
    if (whole.record.details?.area) this.#fillTiles(record.seq);
  }

  #sheets({ record: json, reviews }) {
    const { record } = this;
    return [
      sheet("People's decisions", peopleParts(reviews)),
      sheet("Probabilities", probabilityTable(record, this.#state.model.levels)),
      el("section", { class: "panel sheet", id: "tiles", hidden: true }),
      sheet("Gates", gateTable(json.gates)),
      sheet("Timings", factTable(record.timings.map(([name, ms]) => [words(name), `${milliseconds(ms)} ms`]))),
      sheet("Input", factTable(factsOf(pick(json, ["name", "input_path", "input_size", "input_mtime_ns", "input_sha256"])))),
      sheet("Picture", factTable(factsOf({ ...json.crop, ...json.acquisition }))),
      sheet("Model and engine", factTable(factsOf({ ...json.engine, ...pick(json, ["bundle_sha256", "settings_sha256"]) }))),
      sheet("Chain", factTable(factsOf(pick(json, ["seq", "created_utc", "hffnet_version", "row_version", "prev_hash", "hash"])))),
      json.details && sheet("Details", factTable(factsOf(json.details))),
    ].filter(Boolean);
  }

  async #fillTiles(seq) {
    const room = part("tiles");
    try {
      const cut = await ask(`/v1/frames/${seq}/tiles`);
      room.replaceChildren(el("h2", {}, `Tiles: ${cut.num_classified} of ${cut.num_tiles} classified, ${cut.tile_px} pixels wide`),
        tileMap(cut.tiles, this.#state.model.levels, this.record.width / this.record.height), shareTable(cut.shares));
    } catch (error) {
      room.replaceChildren(el("h2", {}, "Tiles"), el("p", { class: "faint" }, error.message));
    }
    room.hidden = false;
  }
}

function backLink() {
  return el("a", { class: "button quiet", href: "#/" }, "← Live view");
}

function sheet(title, content) {
  return el("section", { class: "panel sheet" }, el("h2", {}, title), content);
}

function peopleParts(reviews) {
  if (!reviews.length) return el("p", { class: "faint" }, "Nobody has decided on this record.");
  return el("div", {}, ...reviews.map((each) => reviewNote(reviewFrom(each))));
}

function probabilityTable(record, levels) {
  const rows = levels.flatMap((level) => [...(record.probabilities.get(level.name) ?? [])]
    .sort(([, left], [, right]) => right - left)
    .map(([name, share]) => [words(level.name), words(name), percent(share), share.toPrecision(6)]));
  if (!rows.length) return el("p", { class: "faint" }, "Nothing was classified.");
  return table(["level", "class", "probability", "in full"], rows);
}

function gateTable(gates) {
  if (!gates.length) return el("p", { class: "faint" }, "No gate looked at this frame.");
  const rows = gates.map((gate) => [
    words(gate.name), gate.passed ? "passed" : gate.refuses ? "refused the frame" : "flag", number(gate.value), number(gate.limit),
    gate.passed ? "" : gate.reason]);
  return table(["gate", "result", "value", "limit", "reason"], rows);
}

/** Where the tiles lie and what each says; the same colours as in the chart of shares. */
function tileMap(tiles, levels, ratio) {
  const height = 100 / ratio;
  return svg("svg", { viewBox: `0 0 100 ${height}`, class: "tile-map", role: "img", "aria-label": `Map of ${tiles.length} tiles` },
    ...tiles.map((tile) => {
      const tone = tile.path?.length ? `tone-${toneOf(levels, tile.path.at(-1))}` : "tone-unsure";
      const said = tile.path?.length ? `${pathWords(tile.path)} ${percent(tile.confidence?.at(-1))}` : "no answer";
      return svg("rect", {
        x: tile.left * 100 + 0.3, y: tile.top * height + 0.3, width: tile.width * 100 - 0.6, height: tile.height * height - 0.6,
        class: tone, "fill-opacity": 0.6 }, svg("title", {}, said));
    }));
}

function shareTable(shares) {
  return table(["level", "class", "share of the field"], Object.entries(shares).flatMap(([level, each]) =>
    Object.entries(each).map(([name, share]) => [words(level), words(name), percent(share)])));
}

function table(heads, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)))))));
}

function factTable(facts) {
  return el("dl", { class: "fact-list" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** Every fact of a document, nested ones with their names joined. */
function factsOf(document, above = "") {
  return Object.entries(document).flatMap(([name, value]) => {
    const full = above ? `${above}: ${words(name)}` : words(name);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? factsOf(value, full) : [[full, plain(value)]];
  });
}

function plain(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.every((each) => typeof each === "string") ? pathWords(value) : JSON.stringify(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function number(value) {
  return typeof value === "number" ? String(+value.toPrecision(5)) : plain(value);
}

function pick(document, names) {
  return Object.fromEntries(names.filter((name) => name in document).map((name) => [name, document[name]]));
}
