// A checkpoint under the pointer or the keyboard is named and lit in every chart and table; a
// selected one stays so, with a bar at the foot of the page that says what is known of it.
const checkpoints = Object.assign(Object.create(null), stored("tips-data")); // an id may be __proto__
const byCheckpoint = new Map();
$$("[data-ck]").forEach((n) => {
  const id = n.dataset.ck;
  if (!byCheckpoint.has(id)) byCheckpoint.set(id, []);
  byCheckpoint.get(id).push(n);
});
const lit = (id, name, on) => (byCheckpoint.get(id) || []).forEach((n) => n.classList.toggle(name, on));
const wordsOf = (node) => {
  const known = checkpoints[node.dataset.ck];
  return [node.dataset.tip || (known && known.tip), node.dataset.more].filter(Boolean).join("\n");
};

const tip = make("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true"); // what it says is said aloud by #said
document.body.append(tip);
const said = $("#said");
let over = null; // what the tooltip is of
let hot = ""; // the checkpoint that is lit
const cool = () => {
  if (hot) lit(hot, "hot", false);
  hot = "";
  tip.hidden = true;
};
const point = (node) => {
  cool();
  over = node;
  if (!node) return;
  hot = node.dataset.ck || "";
  if (hot) lit(hot, "hot", true);
  tip.textContent = wordsOf(node);
  tip.hidden = !tip.textContent;
};
const put = (x, y) => {
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - box.width - 10 : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - box.height - 10 : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
};
document.addEventListener("pointerover", (event) => point(event.target.closest("[data-ck], [data-tip]")));
document.addEventListener("pointermove", (event) => { if (!tip.hidden) put(event.clientX, event.clientY); });
// A scroll's event may come after the pointer has met what it brought there.
document.addEventListener("scroll", () => { if (!over?.matches(":hover")) cool(); }, { passive: true });

// Selecting: a click on a mark, a row or a cell, unless it is on a control or ends a marking of text.
document.addEventListener("click", (event) => {
  const node = event.target.closest("[data-ck]");
  if (!node || event.target.closest("a, button:not(.pick), input, select, summary") || String(getSelection())) return;
  change({ ck: view.ck === node.dataset.ck ? "" : node.dataset.ck });
});

// The keyboard in a chart: arrows go from mark to mark, Enter selects.
const marksOf = (chart) => $$(".pt[data-ck]", chart)
  .filter((n) => !n.closest(".off") && !n.classList.contains("outside"))
  .map((n) => [n, n.getBoundingClientRect()]).sort((a, b) => a[1].x - b[1].x || b[1].y - a[1].y).map((m) => m[0]);
$$("svg.chart").filter((c) => $(".pt[data-ck]", c)).forEach((chart) => {
  chart.tabIndex = 0;
  chart.setAttribute("aria-describedby", "keys");
  chart.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const marks = marksOf(chart);
    if (way && marks.length) {
      const here = marks.indexOf(over);
      const next = marks[here < 0 ? (way > 0 ? 0 : marks.length - 1) : (here + way + marks.length) % marks.length];
      point(next);
      const box = next.getBoundingClientRect();
      put(box.x + box.width / 2, box.y + box.height / 2);
      said.textContent = wordsOf(next);
      event.preventDefault();
    } else if (event.key === "Enter" && marks.includes(over)) {
      change({ ck: over.dataset.ck });
    } else if (event.key === "Escape") {
      if (tip.hidden) change({ ck: "" }); else cool();
    }
  });
  chart.addEventListener("blur", cool);
});

// The selected checkpoint.
const picked = $("#picked");
let held = "";
const showPicked = () => {
  if (held) lit(held, "sel", false);
  held = checkpoints[view.ck] ? view.ck : "";
  document.body.classList.toggle("has-picked", Boolean(held));
  picked.hidden = !held;
  picked.replaceChildren();
  if (!held) return;
  lit(held, "sel", true);
  const known = checkpoints[held];
  const [name, ...rest] = known.tip.split("\n");
  const what = make("p");
  what.append(make("b", name), ` ${rest.join(" · ")}`);
  if (known.state) what.append(" ", make("span", known.state, `st ${known.tone}`));
  const tools = make("div", undefined, "buttons");
  if (known.samples) tools.append(button("samples", "its answers beside the reference's", () => { change({ of: "" }); goTo("samples"); }));
  tools.append(button("row", "its row among all checkpoints", () => {
    goTo("checkpoints");
    $$("#checkpoints tr.sel").forEach((row) => row.scrollIntoView({ block: "center" }));
  }));
  if (known.path) tools.append(button("copy path", known.path, (e) => copy(known.path, e.target)));
  tools.append(button("×", "select nothing (Escape)", () => change({ ck: "" })));
  picked.append(what, tools);
  if (known.why) picked.append(make("p", known.why, "notes"));
  said.textContent = `selected: ${known.tip}`;
};
parts.push((names) => { if (names.includes("ck")) showPicked(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.target.closest("dialog, input, select, .chart")) change({ ck: "" });
});
