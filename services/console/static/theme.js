// Before the first paint: the theme that the reader chose, else that of the system.
let chosen = null;
try { chosen = localStorage.getItem("theme"); } catch { /* storage is switched off */ }
const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
