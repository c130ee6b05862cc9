// A record as the page needs it, from what the server sends. The only place that knows the server's names.

/** A result with its review; throws where the document is none. */
export function recordFrom(json) {
  if (!Number.isSafeInteger(json.seq)) throw new TypeError("a record without a number");
  return {
    seq: json.seq,
    name: json.name,
    time: new Date(json.time),
    status: json.status,
    reason: json.reason,
    path: json.path,
    answer: json.answer,
    confidence: json.confidence,
    probabilities: new Map(json.levels.map((level) => [level.name, new Map(Object.entries(level.probabilities))])),
    gates: json.gates,
    modes: json.is_mixed ? json.modes : [],
    timings: Object.entries(json.stages_ms),
    pixelSizeUm: json.pixel_size_um,
    width: json.width,
    height: json.height,
    urls: json.urls,
    review: json.review ? reviewFrom(json.review) : null,
  };
}

/** A person's word on a record. */
export function reviewFrom(json) {
  return {
    seq: json.seq,
    about: json.refers_to,
    time: new Date(json.time),
    isAccepted: json.decision === "accept",
    path: json.path,
    operator: json.operator,
    reason: json.reason,
  };
}

/** The class tree and what else stays the same while a run lasts. */
export function modelFrom(json) {
  return {
    name: json.bundle.name,
    sha256: json.bundle.sha256,
    levels: json.levels,
    minConfidence: json.min_confidence,
    recordsId: json.records_id,
    key: `${json.bundle.sha256} ${json.records_id}`, // another model or another records file: begin anew
  };
}

/** Bins of the shares chart: when each began, and how many frames showed which class as their last answer. */
export function binsFrom(json) {
  return json.bins.map((bin) => ({ start: new Date(bin.start), num: bin.num, shares: bin.shares, unsure: bin.unsure,
    refused: bin.not_classified }));
}

/** Width of the small pictures; one size, so that they are drawn and fetched once. */
export const THUMB_WIDTH = 192;

/** Address of a frame's picture, at most so many pixels wide; null where there is none. */
export function frameUrl(record, width) {
  return record.urls.frame && `${record.urls.frame}&width=${width}`;
}

/** Address of the evidence for a class, drawn to lie over the frame; null where there is none. */
export function evidenceUrl(record, level, name) {
  return record.urls.evidence && `${record.urls.evidence}&${new URLSearchParams({ level, class: name })}`;
}

/** Gates that did not pass: those that refuse the frame, and those that leave a flag. */
export function failedGates(record) {
  return record.gates.filter((gate) => !gate.passed);
}

/** Whether a record is what the filmstrip is asked to show. */
export function matches(record, filter) {
  if (filter.class && !record.answer.includes(filter.class)) return false;
  if (filter.gate && !failedGates(record).some((gate) => gate.name === filter.gate)) return false;
  if (filter.reviewed === "no") return record.review === null;
  if (filter.reviewed === "accepted") return record.review?.isAccepted === true;
  if (filter.reviewed === "overridden") return record.review?.isAccepted === false;
  return true;
}
