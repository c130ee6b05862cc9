// What the page knows, bounded: the newest records, the model, the service. Many changes are painted once.

/** Records kept in memory; older ones are asked for again when somebody wants them. */
export const MOST_RECORDS = 120;

/** The one state of the page. */
export function createState(evidence) {
  return {
    model: null,
    service: null,
    records: new Map(), // seq → record, oldest first
    newest: null,
    held: null, // the record looked at instead of the newest one
    onStage: null, // the record whose picture and decision people see
    filter: { class: "", gate: "", reviewed: "" },
    evidence: { level: null, class: null, ...evidence }, // null: the answer's
    frameSeenAt: null, // performance.now() of the moment the newest frame was put on record
    connection: { name: "connecting", since: new Date() },
    views: new Set(),
    isPainting: false,
  };
}

/** Forget what belonged to another model or another records file. */
export function beginAnew(state, model) {
  Object.assign(state, { model, newest: null, held: null, onStage: null, frameSeenAt: null });
  Object.assign(state.evidence, { level: null, class: null });
  Object.assign(state.filter, { class: "", gate: "", reviewed: "" });
  state.records.clear();
}

/** Take a record in; false where it is known already, or older than what is kept. */
export function addRecord(state, record) {
  const { records } = state;
  if (records.has(record.seq)) return false;
  const [oldest] = records.keys();
  if (records.size >= MOST_RECORDS && record.seq < oldest) return false;
  records.set(record.seq, record);
  if (state.newest && record.seq < state.newest.seq) sort(records);
  else state.newest = record;
  if (records.size > MOST_RECORDS) records.delete(records.keys().next().value);
  return true;
}

/** Put a person's word beside the record it is about. */
export function addReview(state, review) {
  for (const record of [state.records.get(review.about), state.held, state.onStage]) {
    if (record?.seq === review.about) record.review = review;
  }
}

/** The record on show. */
export function shown(state) {
  return state.held ?? state.newest;
}

/** Ask for one repaint. A hidden page is painted by nobody; it catches up when it is looked at again. */
export function changed(state) {
  if (state.isPainting) return;
  state.isPainting = true;
  const paint = () => {
    state.isPainting = false;
    for (const view of state.views) view();
  };
  if (document.hidden) document.addEventListener("visibilitychange", paint, { once: true });
  else requestAnimationFrame(paint);
}

function sort(records) {
  const inOrder = [...records].sort(([left], [right]) => left - right);
  records.clear();
  for (const [seq, record] of inOrder) records.set(seq, record);
}
