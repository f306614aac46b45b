// Light or dark, before the first paint: a plain script in the head, so that a chosen theme never flashes the other.
// What the system prefers is the default; the toggle keeps a choice only while it differs from that.
"use strict";
{
  const KEY = "cogvideox-theme";
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // Storage can be forbidden; then the choice lasts as long as the page.
    }
  };
  const current = () => root.dataset.theme ?? (systemDark.matches ? "dark" : "light");

  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();

  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme-button").addEventListener("click", () => {
      const next = current() === "dark" ? "light" : "dark";
      const system = systemDark.matches ? "dark" : "light";
      if (next === system) delete root.dataset.theme;
      else root.dataset.theme = next;
      try {
        if (next === system) localStorage.removeItem(KEY);
        else localStorage.setItem(KEY, next);
      } catch {
        // See above.
      }
    });
  });
}
