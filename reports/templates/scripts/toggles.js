// Methods and β switched off are off in every chart and table.
// What an element shows begins its data-ck, data-trial or data-method: method|β|seed|step.
const shows = $$("[data-ck], [data-trial], [data-method]")
  .map((n) => [n, n.dataset.ck || n.dataset.trial || n.dataset.method]);
const isOff = (what) => {
  const [method, beta] = what.split("|");
  return view.off.includes(method) || (beta !== undefined && view.off.includes(`${method}|${beta}`));
};
const switches = $$("[data-toggle]");
const showToggles = () => {
  shows.forEach(([node, what]) => node.classList.toggle("off", isOff(what)));
  switches.forEach((b) => b.setAttribute("aria-pressed", String(!isOff(b.dataset.toggle))));
  $$("[data-all]").forEach((b) => { b.hidden = !view.off.length; });
};
const all = [...new Set(switches.map((b) => b.dataset.toggle))];
const kindOf = (what) => (what.includes("|") ? `${what.split("|")[0]}|` : "");
switches.forEach((b) => b.addEventListener("click", (event) => {
  const what = b.dataset.toggle;
  const kind = kindOf(what);
  const others = all.filter((o) => kindOf(o) === kind && o !== what);
  const rest = view.off.filter((o) => o !== what);
  // Alone: with Shift or Ctrl, a second time all come back.
  if (event.shiftKey || event.ctrlKey || event.metaKey) {
    const alone = others.every((o) => view.off.includes(o)) && !view.off.includes(what);
    const without = rest.filter((o) => !others.includes(o));
    change({ off: alone ? without : [...without, ...others] });
  } else change({ off: view.off.includes(what) ? rest : [...view.off, what] });
}));
$$("[data-all]").forEach((b) => b.addEventListener("click", () => change({ off: [] })));
parts.push((names) => { if (names.includes("off")) showToggles(); });

// Light and dark: as the system says, or as chosen here.
const theme = $("#theme");
const THEMES = ["", "light", "dark"];
const showTheme = (name) => {
  document.documentElement.style.colorScheme = name || "light dark";
  theme.textContent = { "": "◐", light: "☀", dark: "☾" }[name];
  theme.title = `colours: ${name || "as the system"}`;
  theme.setAttribute("aria-label", theme.title);
};
const remembered = () => { try { return localStorage.getItem("prefeval-theme") || ""; } catch { return ""; } };
let scheme = THEMES.includes(remembered()) ? remembered() : "";
showTheme(scheme);
theme.addEventListener("click", () => {
  scheme = THEMES[(THEMES.indexOf(scheme) + 1) % 3];
  showTheme(scheme);
  try { localStorage.setItem("prefeval-theme", scheme); } catch { /* a page from a file may have no store */ }
});
