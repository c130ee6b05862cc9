// How numbers, times, classes and states are said.

/** A probability as people read it; what rounds to all or nothing says so. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  if (share >= 0.9995) return ">99.9 %";
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${(share * 100).toFixed(1)} %`;
}

/** Milliseconds with as many digits as mean something. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A span of time: "0.4 s", "34 s", "5 min", "3 h 12 min". */
export function span(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Time of day on this machine's clock; the record page shows UTC in full. */
export function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

/** A length in µm as on a scale bar. */
export function length(um) {
  if (um >= 1000) return `${+(um / 1000).toPrecision(3)} mm`;
  return um >= 1 ? `${+um.toPrecision(3)} µm` : `${+(um * 1000).toPrecision(3)} nm`;
}

/** A name as words: "ductile_dimples" is read as "ductile dimples", "level1" as "level 1". */
export function words(name) {
  return name.replaceAll("_", " ").replace(/^([a-z]+)(\d+)$/, "$1 $2");
}

/** A class path as one line. */
export function pathWords(path) {
  return path.map(words).join(" › ");
}

/** 1, 2 or 5 times a power of ten, at most a quarter of the width: the same rule as on annotated frames. */
export function barLengthUm(widthPx, pixelSizeUm) {
  const longest = (widthPx * pixelSizeUm) / 4;
  const power = 10 ** Math.floor(Math.log10(longest));
  return Math.max(...[1, 2, 5].map((step) => step * power).filter((um) => um <= longest * (1 + 1e-9)));
}

/** State of a record: a word for its colour and mark, and the sentence people read first. */
export function verdictOf(record, levels) {
  if (record.status === "failed") return { state: "failed", title: "Could not be read", kicker: "Failed" };
  if (record.status === "not_classified") {
    return { state: "refused", title: "Not classified", kicker: "Not classified" };
  }
  if (!record.answer.length) return { state: "unsure", title: "Unsure", kicker: `Unsure at ${levelWords(levels, 0)}` };
  const title = words(record.answer.at(-1));
  if (record.answer.length < record.path.length) {
    return { state: "partly", title, kicker: `Unsure at ${levelWords(levels, record.answer.length)}` };
  }
  return { state: "sure", title, kicker: "Classified" };
}

/** One word for small places: the answer, or why there is none. */
export function shortVerdict(record) {
  if (record.status === "failed") return "failed";
  if (record.status === "not_classified") return "not classified";
  return record.answer.length ? words(record.answer.at(-1)) : "unsure";
}

/** What a person said, as a sentence. */
export function reviewWords(review) {
  return review.isAccepted ? "accepted" : `decided ${pathWords(review.path)}`;
}

/** Shape that goes with a state, so that colour never stands alone. */
export const MARKS = { sure: "●", partly: "◐", unsure: "○", refused: "⊘", failed: "✕" };

function levelWords(levels, index) {
  return levels[index] ? words(levels[index].name) : `level ${index + 1}`;
}
