// The pages of `prefeval view`: what both need. They draw the data they came with, then what the
// server answers, and set only what differs: nothing flickers, what has the focus keeps it.
const kind = document.body.dataset.kind;
const first = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const svg = (tag, values, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(values).forEach(([name, value]) => node.setAttribute(name, value));
  node.append(...children);
  return node;
};
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const setClass = (node, name) => { if (node.className !== name) node.className = name; };
const drawn = new WeakMap(); // node -> the data it shows
const draw = (node, data, act) => {
  const key = JSON.stringify(data);
  if (drawn.get(node) === key) return;
  drawn.set(node, key);
  act(node, data);
};
const say = (text) => { $("said").textContent = text; };
const at = (iso) => {
  const time = iso ? new Date(iso) : null;
  if (!time || Number.isNaN(time.getTime())) return "";
  const two = (n) => String(n).padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
};
const TONES = {
  running: "ok", finished: "ok", trained: "ok", training: "ok", measuring: "ok", starting: "ok",
  failed: "bad", "failed trials": "bad", interrupted: "unsure", stopped: "unsure",
};
const tone = (state) => TONES[state] || "none";
const chip = (state) => make("span", state, `st ${tone(state)}`);
const bar = (share) => {
  const node = make("progress");
  node.max = 1;
  node.value = share;
  node.title = `${Math.floor(100 * share)}%`;
  return node;
};
