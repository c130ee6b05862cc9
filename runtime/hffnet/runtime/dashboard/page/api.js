// Questions to the server. Everything stays on this origin.

/** A request that was answered with an error; the sentence is the server's. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** GET a JSON document. */
export async function ask(path, { signal } = {}) {
  return answerOf(await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal }));
}

/** The secret of writes: it shows that this very page asks, not another one in the same browser. */
export async function csrf() {
  return (await ask("/v1/session")).csrf;
}

/** POST a JSON document. */
export async function tell(path, document, secret) {
  const headers = { "Content-Type": "application/json", Accept: "application/json", "X-Hffnet-Csrf": secret };
  return answerOf(await fetch(path, { method: "POST", headers, body: JSON.stringify(document) }));
}

async function answerOf(response) {
  const text = await response.text();
  let document = null;
  try {
    document = JSON.parse(text);
  } catch {
    if (response.ok) throw new Refused(response.status, "the answer is not JSON");
  }
  if (response.ok) return document;
  throw new Refused(response.status, sentenceOf(document) ?? `${response.status} ${response.statusText}`);
}

function sentenceOf(document) {
  return typeof document?.error === "string" ? document.error : null;
}
