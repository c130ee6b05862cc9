// What runs, how long its stages take, what was dropped, how old the newest frame is, and whether the server is there.

import { el, part, say } from "./dom.js";
import { saved } from "./saved.js";
import { clock, milliseconds, span, words } from "./words.js";

/** Seconds without a new frame after which the page goes grey, unless a person chose otherwise. */
export const STALE_AFTER_S = 10;

const WAITING = new Set(["waited", "queued", "total"]); // not one stage's work: they have no bar

/** State of source and engine, latencies, counts. */
export function showHealth(state) {
  const { service, model } = state;
  if (model) {
    say(part("model-name"), model.name);
    part("model-name").title = `sha256 ${model.sha256}`;
  }
  if (!service) return;
  const source = sourceState(state);
  say(part("source-state"), source);
  part("source-mark").dataset.state = source;
  say(part("source-name"), service.source.name);
  part("source-name").title = service.source.name;
  const { engine } = service;
  say(part("engine-name"), engine ? `${engine.name} · ${engine.precision}` : "starting");
  part("engine-name").title = engine ? `${engine.name} ${engine.version} on ${engine.device}` : "";
  part("stages").replaceChildren(stageTable(service.stages_ms));
  part("counts").replaceChildren(...countParts(service));
}

/** One line across the page where something keeps it from being live. */
export function showBanner(state) {
  const { name, since } = state.connection;
  const { readiness, reason } = state.service ?? {};
  let words = "";
  if (name === "lost") words = `Connection lost since ${clock(since)}. What you see is not live; trying again.`;
  else if (name === "signedOut") words = "Signed out: the run was started anew. Open the address that hffnet printed when it started.";
  else if (readiness && readiness !== "running") words = `The run is ${READINESS[readiness] ?? readiness}${reason ? `: ${reason}` : "."}`;
  else if (reason) words = `The run is ${reason}`;
  say(part("banner"), words);
  part("banner").hidden = !words;
}

/** How old the newest frame is, and whether that is too old to be called live. */
export function showAge(state, now = performance.now()) {
  const age = part("age");
  const isLost = state.connection.name !== "open";
  const seconds = state.frameSeenAt === null ? null : (now - seenAt(state)) / 1000;
  const limit = Number(saved("stale")) || STALE_AFTER_S;
  const isStale = seconds !== null && (seconds > limit || isLost);
  document.body.classList.toggle("stale", isStale);
  document.body.classList.toggle("held", state.held !== null);
  age.title = `Since the newest frame was put on record; the page goes grey after ${limit} s without one`;
  if (seconds === null) say(age, "");
  else if (isLost) say(age, `Last frame ${span(seconds)} ago`);
  else if (isStale) say(age, `Stale: no new frame for ${span(seconds)}`);
  else say(age, state.held ? `Held; newest ${span(seconds)} ago` : `Live, ${span(seconds)} ago`);
}

/** Of the newest frame; while its picture is still loading, of the one that is on show instead. */
function seenAt({ held, newest, onStage, frameSeenAt }) {
  return held || !onStage || onStage === newest ? frameSeenAt : onStage.seenAt;
}

function sourceState({ connection, service }) {
  return connection.name === "open" ? service.source.state : "not known";
}

function stageTable(stages) {
  const rows = Object.entries(stages);
  const most = Math.max(...rows.filter(([name]) => !WAITING.has(name)).map(([, ms]) => ms.p90 ?? ms.p50 ?? 0), 0.001);
  return el("table", { class: "stage-table" },
    el("thead", {}, el("tr", {}, ...["stage", "", "p50", "p90", "p99"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map(([name, ms]) => el("tr", {},
      el("th", { scope: "row" }, words(name)), el("td", { class: "stage-bar" }, WAITING.has(name) ? null : bar(ms, most)),
      ...[ms.p50, ms.p90, ms.p99].map((value) => el("td", {}, milliseconds(value)))))));
}

function bar(ms, most) {
  const outer = el("span", { class: "bar" });
  for (const [name, value] of [["p90", ms.p90], ["p50", ms.p50]]) {
    const inner = el("i", { class: name });
    inner.style.width = `${Math.min(100, (100 * (value ?? 0)) / most)}%`;
    outer.append(inner);
  }
  return outer;
}

function countParts(service) {
  const dropped = Object.entries(service.dropped);
  const facts = [
    ...Object.entries(service.counts).map(([name, count]) => [words(name), String(count)]),
    ["dropped", dropped.length ? dropped.map(([why, count]) => `${count} (${why})`).join(", ") : "0"],
    ["running", span(service.uptime_s)],
  ];
  return facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

const READINESS = {
  starting: "starting: the engine proves itself on its test vectors", stopping: "stopping", failed: "not possible", gone: "over",
};
