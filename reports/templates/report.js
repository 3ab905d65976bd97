(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };

  // Hover: a tooltip, and the same checkpoint lit in every chart and table.
  const tips = JSON.parse($("#tips-data").textContent);
  const tip = make("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let hot = [];
  let over = null; // what the tooltip is of
  const cool = () => { hot.forEach((n) => n.classList.remove("hot")); hot = []; tip.hidden = true; };
  document.addEventListener("pointerover", (event) => {
    const node = event.target.closest("[data-ck], [data-tip]");
    cool();
    over = node;
    if (!node) return;
    const id = node.dataset.ck;
    if (id) {
      hot = $$("[data-ck]").filter((n) => n.dataset.ck === id);
      hot.forEach((n) => n.classList.add("hot"));
    }
    const words = [node.dataset.tip || tips[id], node.dataset.more].filter(Boolean).join("\n");
    if (words) {
      tip.textContent = words;
      tip.hidden = false;
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (tip.hidden) return;
    const box = tip.getBoundingClientRect();
    const x = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 10 : event.clientX + 14;
    const y = event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 14;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  });
  // A scroll's event may come after the pointer has met what it brought there.
  document.addEventListener("scroll", () => { if (!over?.matches(":hover")) cool(); }, { passive: true });

  // Legend: a method off is off in every chart and table.
  $$("[data-toggle]").forEach((button) => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    const method = button.dataset.toggle;
    $$("[data-toggle]").filter((b) => b.dataset.toggle === method)
      .forEach((b) => b.setAttribute("aria-pressed", String(on)));
    $$("[data-method]").filter((n) => n.dataset.method === method)
      .forEach((n) => { n.style.display = on ? "" : "none"; });
  }));

  // Tables: sort by a column; rows without a value stay last.
  $$("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    $$("thead button", table).forEach((button) => button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") !== "descending";
      $$("th", table).forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const raw = row.cells[head.cellIndex].dataset.v;
        const n = raw === "" || raw === undefined ? NaN : Number(raw);
        return Number.isNaN(n) ? raw || "" : n;
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -sign : sign;
      };
      body.append(...[...body.rows].sort(order));
      $$("tr.first", body).forEach((row) => row.classList.remove("first"));
    }));
  });

  // Copy buttons.
  $$("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(source);
    try { await navigator.clipboard.writeText(source.textContent); button.textContent = "copied"; } catch { button.textContent = "selected"; }
  }));

  // Where the reader is.
  const links = $$(".bar nav a");
  const watch = new IntersectionObserver((entries) => {
    const entry = entries.find((e) => e.isIntersecting);
    if (entry) links.forEach((a) => a.classList.toggle("here", a.hash === `#${entry.target.id}`));
  }, { rootMargin: "-20% 0px -70% 0px" });
  $$("main section").forEach((section) => watch.observe(section));

  // Samples: from the JSON in this file; every text is set as text, never as markup.
  const store = $("#samples-data");
  if (!store) return;
  const data = JSON.parse(store.textContent);
  const FIELDS = ["ck", "prompt", "behaviour", "mode", "text", "ref", "kinds", "first", "second", "truth", "passed", "before"];
  const all = data.rows.map((row) => Object.fromEntries(FIELDS.map((name, i) => [name, row[i]])));
  const state = { ck: $("#s-ck").value, behaviour: "", kind: "", query: "", limit: 10 };
  const list = $("#s-list");
  const more = $("#s-more");
  const CONTROL = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069])/;

  const written = (index) => {
    const node = make("div", undefined, "text");
    node.dir = "auto";
    data.texts[index].split(CONTROL).forEach((part, i) => {
      if (i % 2) node.append(make("span", `U+${part.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`, "ctl"));
      else if (part) node.append(part);
    });
    if (!data.texts[index]) node.append(make("span", "empty answer", "ctl"));
    return node;
  };
  const verdict = (s) => {
    if (s.passed !== null) return [s.passed ? "passes its check" : "fails its check", s.passed ? "ok" : "bad"];
    if (s.first === null || s.second === null) return ["no verdict", "none"];
    const mean = (s.first + s.second) / 2;
    const detail = `P(beats reference) ${s.first.toFixed(2)} shown first, ${s.second.toFixed(2)} second`;
    if ((s.first - 0.5) * (s.second - 0.5) < 0) return [`order flips it: ${detail}`, "unsure"];
    return [`${mean > 0.5 ? "wins" : mean < 0.5 ? "loses" : "ties"}: ${detail}`, mean > 0.5 ? "ok" : mean < 0.5 ? "bad" : "none"];
  };
  const side = (title, index, note, style) => {
    const node = make("div");
    const head = make("h4", title);
    if (note) head.append(make("span", note, `chip ${style}`));
    node.append(head, written(index));
    return node;
  };
  const card = (s) => {
    const node = make("article", undefined, "sample");
    const head = make("header");
    head.append(make("span", s.behaviour || "prompt", "chip none"), make("span", s.prompt, "mono"));
    s.kinds.forEach((kind) => head.append(make("span", data.kinds[kind], "chip unsure")));
    if (s.truth !== null) head.append(make("span", `oracle: ${s.truth > 0.5 ? "better" : s.truth < 0.5 ? "worse" : "equal"}`, `chip ${s.truth > 0.5 ? "ok" : s.truth < 0.5 ? "bad" : "none"}`));
    node.append(head);
    (data.prompts[s.prompt] || []).forEach(([role, index]) => {
      const turn = make("div", undefined, "turn");
      turn.append(make("b", role), written(index));
      node.append(turn);
    });
    const pair = make("div", undefined, "pair");
    const before = s.before === null ? ["", ""] : s.before ? ["passes its check", "ok"] : ["fails its check", "bad"];
    pair.append(side("This checkpoint", s.text, ...verdict(s)), side("Reference", s.ref, ...before));
    node.append(pair);
    return node;
  };
  const fits = (s) => s.ck === state.ck && (!state.behaviour || s.behaviour === state.behaviour)
    && (!state.kind || s.kinds.includes(state.kind))
    && (!state.query || [s.text, s.ref, ...(data.prompts[s.prompt] || []).map((m) => m[1])]
      .some((i) => data.texts[i].toLowerCase().includes(state.query)));
  const show = () => {
    let found = all.filter(fits);
    if (state.kind === "longest") found = found.sort((a, b) => data.texts[b.text].length - data.texts[a.text].length);
    list.replaceChildren(...found.slice(0, state.limit).map(card));
    if (!found.length) list.append(make("p", "No embedded sample fits these filters.", "lead"));
    const shown = Math.min(found.length, state.limit);
    $("#s-count").textContent = `${shown} of ${found.length} shown`;
    more.hidden = shown >= found.length;
  };
  const set = (change) => { Object.assign(state, { limit: 10 }, change); show(); };
  $("#s-ck").addEventListener("change", (e) => set({ ck: e.target.value }));
  $("#s-behaviour").addEventListener("change", (e) => set({ behaviour: e.target.value }));
  $("#s-query").addEventListener("input", (e) => set({ query: e.target.value.toLowerCase() }));
  more.addEventListener("click", () => set({ limit: state.limit + 20 }));
  $$("[data-kind]").forEach((button) => button.addEventListener("click", () => {
    $$("[data-kind]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    set({ kind: button.dataset.kind });
  }));
  show();
})();
