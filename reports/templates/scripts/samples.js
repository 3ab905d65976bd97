// Samples: packed into this file, one piece for each checkpoint, and unpacked when they are asked
// for. Every text is set as text, never as markup.
const store = stored("samples-data");
const FIELDS = ["prompt", "behaviour", "mode", "text", "kinds", "first", "second", "truth", "passed", "before", "kl"];
// Shown by their number: controls, and what is not seen or reorders the text. (Not U+200C and U+200D,
// which join letters and emoji.)
const CONTROL = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udfff])/;
const EVERY = "*"; // instead of a checkpoint: all of them
const PAGE = 10;

// A piece of the file: gzip in base64.
const pieces = new Map();
const piece = (id) => {
  if (!pieces.has(id)) {
    const node = $$("script.packed").find((n) => n.dataset.of === id);
    const bytes = Uint8Array.from(atob(node.textContent), (c) => c.charCodeAt(0));
    pieces.set(id, new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json());
  }
  return pieces.get(id);
};
const rowsOf = async (id) => {
  const shared = await piece("shared");
  return (await piece(id)).map((row) => {
    const s = Object.fromEntries(FIELDS.map((name, i) => [name, row[i]]));
    return { ...s, ck: id, ref: shared.refs[`${s.mode}|${s.prompt}`] ?? "", turns: shared.prompts[s.prompt] || [] };
  });
};

const textInto = (node, text) => text.split(CONTROL).forEach((part, i) => {
  if (i % 2) node.append(make("span", `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`, "ctl"));
  else if (part) node.append(part);
});
const textNode = (text) => {
  const node = make("div", undefined, "text");
  node.dir = "auto";
  textInto(node, text);
  if (!text) node.append(make("span", "empty answer", "ctl"));
  return node;
};
// One side of a difference: what is the same, and what only this side has.
const changedNode = (changes, own) => {
  const node = make("div", undefined, "text");
  node.dir = "auto";
  changes.forEach(([kind, text]) => {
    if (kind !== "same" && kind !== own) return;
    const piece = kind === "same" ? node : node.appendChild(make(own === "new" ? "ins" : "del"));
    textInto(piece, text);
  });
  return node;
};

const judged = (s) => {
  if (s.passed !== null) return [s.passed ? "passes its check" : "fails its check", s.passed ? "ok" : "bad"];
  if (s.first === null || s.second === null) return ["no verdict", "none"];
  const mean = (s.first + s.second) / 2;
  const detail = `P(beats reference) ${s.first.toFixed(2)} shown first, ${s.second.toFixed(2)} second`;
  if ((s.first - 0.5) * (s.second - 0.5) < 0) return [`order flips it: ${detail}`, "unsure"];
  return [`${mean > 0.5 ? "wins" : mean < 0.5 ? "loses" : "ties"}: ${detail}`, mean > 0.5 ? "ok" : mean < 0.5 ? "bad" : "none"];
};
const count = (text) => (text.match(/\S+/g) || []).length;
const side = (title, body, text, note, style) => {
  const node = make("div");
  const head = make("h3", title);
  if (note) head.append(make("span", note, `chip ${style}`));
  head.append(make("span", `${count(text)} words`));
  node.append(head, body);
  return node;
};
const nameOfCheckpoint = (id) => (checkpoints[id] ? checkpoints[id].tip.split("\n")[0] : id);
const sampleCard = (s) => {
  const node = make("article", undefined, "sample");
  node.setAttribute("aria-label", `${s.behaviour} ${s.prompt}`);
  const head = make("header");
  if (view.of === EVERY) head.append(make("b", nameOfCheckpoint(s.ck)));
  head.append(make("span", s.behaviour || "prompt", "chip none"), make("span", s.prompt, "mono"));
  s.kinds.forEach((kind) => head.append(make("span", store.kinds[kind], "chip unsure")));
  if (s.truth !== null) head.append(make("span", `oracle: ${s.truth > 0.5 ? "better" : s.truth < 0.5 ? "worse" : "equal"}`, `chip ${s.truth > 0.5 ? "ok" : s.truth < 0.5 ? "bad" : "none"}`));
  if (s.kl !== null) head.append(make("span", `KL ${s.kl.toPrecision(3)} nats`));
  const tools = make("span", undefined, "buttons");
  if (view.prompt) tools.append(button("all prompts", "", () => change({ prompt: "" })));
  else tools.append(button("in every checkpoint", "the answers of all checkpoints to this prompt", () => change({ prompt: s.prompt, of: EVERY, kind: "", q: "", behaviour: "" })));
  tools.append(button("link", "copy a link to this answer", (e) => copy(linkTo({ ck: s.ck, of: "", prompt: s.prompt, kind: "", q: "", behaviour: "" }, "samples"), e.target)));
  head.append(tools);
  node.append(head);
  s.turns.forEach(([role, text]) => {
    const turn = make("div", undefined, "turn");
    turn.append(make("b", role), textNode(text));
    node.append(turn);
  });
  const changes = view.plain ? null : wordDiff(s.ref, s.text);
  const alike = changes && s.ref && s.text;
  const pair = make("div", undefined, "pair");
  const before = s.before === null ? ["", ""] : s.before ? ["passes its check", "ok"] : ["fails its check", "bad"];
  pair.append(
    side("Reference", alike ? changedNode(changes, "gone") : textNode(s.ref), s.ref, ...before),
    side(view.of === EVERY ? nameOfCheckpoint(s.ck) : "This checkpoint", alike ? changedNode(changes, "new") : textNode(s.text), s.text, ...judged(s)),
  );
  node.append(pair);
  return node;
};

const ORDERS = { longest: (s) => s.text.length, kl: (s) => s.kl ?? -Infinity };
const fits = (s) => (!view.behaviour || s.behaviour === view.behaviour) && (!view.prompt || s.prompt === view.prompt)
  && (!view.kind || Object.hasOwn(ORDERS, view.kind) || s.kinds.includes(view.kind))
  && (!view.q || [s.text, s.ref, ...s.turns.map((t) => t[1])].some((t) => t.toLowerCase().includes(view.q.toLowerCase())));

if (store) {
  const pick = $("#s-ck");
  const list = $("#s-list");
  const more = $("#s-more");
  const counted = $("#s-count");
  let limit = PAGE;
  let asked = 0;
  const shownOf = () => (view.of === EVERY ? EVERY : checkpoints[view.ck]?.samples ? view.ck : store.first);
  const show = async () => {
    asked += 1;
    const mine = asked;
    list.setAttribute("aria-busy", "true");
    const id = shownOf();
    pick.value = id;
    $("#s-behaviour").value = view.behaviour;
    if ($("#s-query").value !== view.q) $("#s-query").value = view.q;
    $("#s-plain").checked = !view.plain;
    $$("[data-kind]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.kind === view.kind)));
    try {
      const ids = id === EVERY ? store.order.filter((one) => !isOff(one)) : [id];
      let found = [];
      for (const [i, one] of ids.entries()) {
        if (ids.length > 1 && i % 10 === 0) counted.textContent = `reading ${i} of ${ids.length} checkpoints`;
        found.push(...(await rowsOf(one)).filter(fits));
        if (mine !== asked) return; // the reader has asked for something else
      }
      if (Object.hasOwn(ORDERS, view.kind)) found = found.sort((a, b) => ORDERS[view.kind](b) - ORDERS[view.kind](a));
      list.replaceChildren(...found.slice(0, limit).map(sampleCard));
      if (!found.length) list.append(make("p", "No embedded sample fits these filters.", "lead"));
      const shown = Math.min(found.length, limit);
      counted.textContent = `${shown} of ${found.length} shown`;
      more.hidden = shown >= found.length;
      list.setAttribute("aria-busy", "false");
    } catch (error) {
      if (mine === asked) list.replaceChildren(make("p", `The samples cannot be unpacked: this needs a browser of 2023 or later (${error.message}).`, "lead"));
    }
  };
  pick.addEventListener("change", () => change(pick.value === EVERY ? { of: EVERY, prompt: "" } : { of: "", ck: pick.value, prompt: "" }));
  $("#s-behaviour").addEventListener("change", (e) => change({ behaviour: e.target.value }));
  $("#s-query").addEventListener("input", (e) => change({ q: e.target.value }));
  $("#s-plain").addEventListener("change", (e) => change({ plain: e.target.checked ? "" : "1" }));
  $$("[data-kind]").forEach((b) => b.addEventListener("click", () => change({ kind: b.dataset.kind })));
  more.addEventListener("click", () => { limit += 2 * PAGE; show(); });
  parts.push((names) => {
    const mine = ["ck", "of", "behaviour", "kind", "q", "plain", "prompt", ...(view.of === EVERY ? ["off"] : [])];
    if (!mine.some((n) => names.includes(n))) return;
    if (names.join() === "ck" && view.of === EVERY) return;
    limit = PAGE;
    show();
  });
  // The first ones are unpacked when the page is still; a print of it holds them then.
  const start = () => { if (!asked) show(); };
  if ("requestIdleCallback" in window) requestIdleCallback(start, { timeout: 500 }); else setTimeout(start, 50);
}
