// Records as they are committed. The browser reconnects by itself and names the last one it has; where the server
// answered with an error it gives up, so a new connection is made, which names it in the address.

import { ask } from "./api.js";

const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const KINDS = ["record", "review", "state", "reset"];

/** Follow the server for as long as the page lives.
 *  on: { record(json), review(json), state(json), reset(), open(), lost(isSignedOut) } */
export function follow(on) {
  let attempt = 0;
  let last = "";

  function connect() {
    const events = new EventSource(last ? `/v1/events?after=${last}` : "/v1/events");
    events.addEventListener("open", () => {
      attempt = 0;
      on.open();
    });
    for (const kind of KINDS) {
      events.addEventListener(kind, (event) => {
        last = event.lastEventId || last;
        on[kind](JSON.parse(event.data));
      });
    }
    events.addEventListener("error", async () => {
      // CONNECTING: the browser tries again. CLOSED: the server answered, but with an error.
      if (events.readyState !== EventSource.CLOSED) return on.lost(false);
      setTimeout(connect, PAUSES_MS[Math.min(attempt++, PAUSES_MS.length - 1)]);
      return on.lost(await isSignedOut());
    });
  }

  connect();
}

async function isSignedOut() {
  try {
    await ask("/v1/state");
    return false;
  } catch (error) {
    return error.status === 401;
  }
}
