// What this browser remembers for its user: name, theme, overlay. Private windows may refuse; then it lasts a page.

const PREFIX = "hffnet.";
const page = new Map();

/** What was saved under a name, as text; null where nothing was. */
export function saved(name) {
  try {
    return localStorage.getItem(PREFIX + name) ?? page.get(name) ?? null;
  } catch {
    return page.get(name) ?? null;
  }
}

/** Remember a text. */
export function save(name, text) {
  page.set(name, text);
  try {
    localStorage.setItem(PREFIX + name, text);
  } catch {
    // Remembered for as long as the page is open.
  }
}
