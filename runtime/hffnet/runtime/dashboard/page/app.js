// The live view: what comes from the server goes into the state, and the state onto the page.

import { ask } from "./api.js";
import { evidenceTools, nextLevel, pickEvidence, stepClass, stepOpacity, toggleEvidence } from "./evidence.js";
import { showAge, showBanner, showHealth } from "./health.js";
import { bindKeys } from "./keys.js";
import { LivePanel } from "./live_panel.js";
import { part } from "./dom.js";
import { modelFrom, recordFrom, reviewFrom } from "./record.js";
import { RecordPage } from "./record_page.js";
import { openReview } from "./review_dialog.js";
import { saved } from "./saved.js";
import { Shares } from "./shares.js";
import { MOST_RECORDS, addRecord, addReview, beginAnew, changed, createState } from "./state.js";
import { follow } from "./stream.js";
import { Strip } from "./strip.js";
import { applyTheme, switchTheme } from "./theme.js";

const AGE_MS = 250;

const state = createState({ on: saved("evidence") === "on", opacity: Number(saved("opacity")) || 0.7 });
const livePanel = new LivePanel(state, review);
const strip = new Strip(state, look);
const shares = new Shares(state);
const recordPage = new RecordPage(state, review);
const showEvidenceTools = evidenceTools(part("evidence-tools"), state);
let isSynced = false;
let isSyncing = false;

function paint() {
  showHealth(state);
  showBanner(state);
  showAge(state);
  showEvidenceTools();
  livePanel.show();
  strip.show();
  recordPage.show();
}

/** Everything that may have happened while nobody listened; a run that still starts is asked again with its next state. */
async function sync() {
  if (isSyncing) return;
  isSyncing = true;
  try {
    const service = await ask("/v1/state");
    if (service.readiness !== "starting") {
      const model = modelFrom(await ask("/v1/model"));
      // Before records are asked for: what the events bring from here on is kept.
      if (state.model?.key !== model.key) begin(model);
      const page = await ask(`/v1/records?limit=${MOST_RECORDS}`);
      for (const json of page.records.toReversed()) takeRecord(json);
      isSynced = true;
      shares.refresh();
    }
    takeService(service);
  } catch (error) {
    if (error.status !== 503) connect("lost");
  } finally {
    isSyncing = false;
    changed(state);
  }
}

function begin(model) {
  beginAnew(state, model);
  livePanel.begin();
  strip.begin();
  route();
}

function takeRecord(json) {
  const record = recordFrom(json);
  record.seenAt = performance.now();
  if (addRecord(state, record) && state.newest === record) state.frameSeenAt = record.seenAt;
  changed(state);
}

function takeReview(json) {
  const said = reviewFrom(json);
  addReview(state, said);
  if (recordPage.record?.seq === said.about) recordPage.open(said.about);
  changed(state);
}

function takeService(json) {
  state.service = json;
  // Of a run that has put nothing on record yet, the newest frame is an earlier run's.
  const ageS = json.last_frame_age_s ?? (state.newest && (new Date(json.now) - state.newest.time) / 1000);
  if (ageS !== null) state.frameSeenAt = performance.now() - ageS * 1000;
  if (!isSynced) sync();
  changed(state);
}

function connect(name) {
  if (state.connection.name !== name) state.connection = { name, since: new Date() };
  changed(state);
}

function look(record) {
  state.held = record.seq === state.newest?.seq ? null : record;
  changed(state);
}

function toLive() {
  if (location.hash.startsWith("#/record/")) location.hash = "#/";
  state.held = null;
  changed(state);
}

function review(record, decision) {
  if (!state.model || !record || (decision === "accept" && !record.answer.length)) return;
  openReview(state, record, decision, takeReview);
}

function current() {
  return recordPage.record ?? state.onStage;
}

function route() {
  const found = /^#\/record\/(\d+)$/.exec(location.hash);
  const isBack = part("live").hidden && !found;
  part("live").hidden = found !== null;
  recordPage.open(found ? Number(found[1]) : null);
  // What had the focus is gone; Tab goes on from the decision.
  if (isBack) part("decision").focus();
  changed(state);
}

function openHelp() {
  part("help").showModal();
}

applyTheme();
part("theme").addEventListener("click", switchTheme);
part("help-open").addEventListener("click", openHelp);
part("to-live").addEventListener("click", toLive);
addEventListener("hashchange", route);
addEventListener("resize", () => changed(state));
state.views.add(paint);
setInterval(() => showAge(state), AGE_MS);

bindKeys(state, [
  { keys: ["ArrowLeft"], words: "newer frame", action: () => strip.step(-1) },
  { keys: ["ArrowRight"], words: "older frame", action: () => strip.step(1) },
  { keys: [" ", "Home"], words: "back to the live frame", action: toLive },
  { keys: ["e"], words: "evidence on or off", action: () => toggleEvidence(state) },
  { keys: ["l"], words: "evidence of the next level", action: () => nextLevel(state) },
  { keys: ["[", "]"], words: "evidence of the class before, after", action: (name) => stepClass(state, name === "[" ? -1 : 1) },
  { keys: ["-", "+", "="], words: "less, more of the evidence", action: (name) => stepOpacity(state, name === "-" ? -1 : 1) },
  { keys: ["a"], words: "accept the decision", action: () => review(current(), "accept") },
  { keys: ["o"], words: "override it", action: () => review(current(), "override") },
  { keys: ["r"], words: "everything on record", action: () => { if (current()) location.hash = `#/record/${current().seq}`; } },
  { keys: ["Escape"], words: "back to the live view", action: toLive },
  { keys: ["t"], words: "dark or light", action: switchTheme },
  { keys: ["?"], words: "this help", action: openHelp },
]);

follow({
  record: takeRecord,
  review: takeReview,
  state: takeService,
  reset: sync,
  open: () => {
    isSynced = false;
    connect("open");
    sync();
  },
  lost: (isSignedOut) => connect(isSignedOut ? "signedOut" : "lost"),
});
