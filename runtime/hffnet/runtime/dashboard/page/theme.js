// Dark or light: as the system says, unless a person chose.

import { save, saved } from "./saved.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Put the chosen theme on the page. */
export function applyTheme() {
  const chosen = saved("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

/** Change to the other one and remember it. */
export function switchTheme() {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  save("theme", now === "dark" ? "light" : "dark");
  applyTheme();
}
