// The prompts that changed most: A, B and the reference side by side, from the JSON in this file.
// Every text is set as text, never as markup.
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const make = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const CONTROL = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udfff])/;
const PAGE = 10;

const textInto = (node, text) => text.split(CONTROL).forEach((part, i) => {
  if (i % 2) node.append(make("span", `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`, "ctl"));
  else if (part) node.append(part);
});
const box = (text) => {
  const node = make("div", undefined, "text");
  node.dir = "auto";
  if (text) textInto(node, text);
  else node.append(make("span", "empty answer", "ctl"));
  return node;
};
// One side of a difference: what both have, and what this side alone has.
const marked = (changes, own) => {
  const node = box(" ");
  node.replaceChildren();
  changes.filter(([kind]) => kind === "same" || kind === own).forEach(([kind, text]) => {
    textInto(kind === "same" ? node : node.appendChild(make(own === "gone" ? "del" : "ins")), text);
  });
  return node;
};

const judged = (answer) => {
  if (answer.passed !== null) return [answer.passed ? "passes its check" : "fails its check", answer.passed ? "ok" : "bad"];
  if (answer.preference === null) return ["", ""];
  const [first, second] = [answer.first, answer.second];
  const detail = `P(beats reference) ${first.toFixed(2)} shown first, ${second.toFixed(2)} second`;
  if ((first - 0.5) * (second - 0.5) < 0) return [`order flips it: ${detail}`, "unsure"];
  const sign = Math.sign(answer.preference - 0.5);
  return [`${{ 1: "wins", 0: "ties", "-1": "loses" }[sign]}: ${detail}`, { 1: "ok", 0: "none", "-1": "bad" }[sign]];
};
const side = (title, answer, body) => {
  const node = make("div");
  const head = make("h3");
  head.append(make("b", title));
  const [note, style] = judged(answer);
  if (note) head.append(make("span", note, `chip ${style}`));
  if (answer.truth !== null) head.append(make("span", `oracle: ${{ 1: "better", 0: "equal", "-1": "worse" }[Math.sign(answer.truth - 0.5)]}`));
  const size = answer.tokens === null ? `${answer.words} words` : `${answer.tokens} tokens`;
  head.append(make("span", answer.kl === null ? size : `${size}, KL ${answer.kl.toPrecision(3)}`));
  node.append(head, body);
  return node;
};
const card = (sample, marks) => {
  const node = make("article", undefined, "sample");
  node.setAttribute("aria-label", sample.id);
  const head = make("header");
  head.append(make("span", sample.behaviour || "prompt", "chip none"), make("span", sample.id, "mono"));
  sample.kinds.forEach(([, words]) => head.append(make("span", words, "chip unsure")));
  node.append(head);
  sample.turns.forEach(([role, text]) => {
    const turn = make("div", undefined, "turn");
    turn.append(make("b", role), box(text));
    node.append(turn);
  });
  const changes = marks && sample.a.text && sample.b.text ? wordDiff(sample.a.text, sample.b.text) : null;
  const sides = make("div", undefined, "triple");
  sides.append(
    side("A", sample.a, changes ? marked(changes, "gone") : box(sample.a.text)),
    side("B", sample.b, changes ? marked(changes, "new") : box(sample.b.text)),
    side("Reference", sample.reference, box(sample.reference.text)),
  );
  node.append(sides);
  return node;
};

const store = $("#samples-data");
if (store) {
  const all = JSON.parse(store.textContent);
  const state = { kind: "", query: "", marks: true, limit: PAGE };
  const fits = (s) => (!state.kind || s.kinds.some(([kind]) => kind === state.kind))
    && (!state.query || [s.id, s.a.text, s.b.text, s.reference.text, ...s.turns.map((t) => t[1])]
      .some((text) => text.toLowerCase().includes(state.query)));
  const show = () => {
    const found = all.filter(fits);
    $("#s-list").replaceChildren(...found.slice(0, state.limit).map((s) => card(s, state.marks)));
    if (!found.length) $("#s-list").append(make("p", "No prompt here fits these filters.", "lead"));
    const shown = Math.min(found.length, state.limit);
    $("#s-count").textContent = `${shown} of ${found.length} shown`;
    $("#s-more").hidden = shown >= found.length;
  };
  const set = (values) => { Object.assign(state, { limit: PAGE }, values); show(); };
  $$("[data-kind]").forEach((button) => button.addEventListener("click", () => {
    $$("[data-kind]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    set({ kind: button.dataset.kind });
  }));
  $("#s-query").addEventListener("input", (e) => set({ query: e.target.value.toLowerCase() }));
  $("#s-diff").addEventListener("change", (e) => set({ marks: e.target.checked, limit: state.limit }));
  $("#s-more").addEventListener("click", () => set({ limit: state.limit + 2 * PAGE }));
  addEventListener("beforeprint", () => set({ limit: all.length }));
  show();
}
