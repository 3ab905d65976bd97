// What every part needs: finding and making elements, and the view.
// The view is all that a reader has chosen. It is written behind the "#" of the address, so that a
// link to the page with it shows the same; every part reads it, and acts when it changes.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const button = (text, title, act) => {
  const node = make("button", text, "btn");
  node.type = "button";
  if (title) node.title = title;
  node.addEventListener("click", act);
  return node;
};
const stored = (id) => {
  const node = document.getElementById(id);
  return node ? JSON.parse(node.textContent) : null;
};

const VIEW = {
  ck: "", // the selected checkpoint
  off: [], // methods and β that are not shown
  sort: "", rows: "", state: "", // the checkpoint table: column and direction, words, verdict
  of: "", behaviour: "", kind: "", q: "", plain: "", prompt: "", // the samples
  zoom: [], // chart,x low,x high,y low,y high
};
const LISTS = ["off", "zoom"];
const view = { ...VIEW };
const parts = []; // functions of the view, called with the names that changed
let place = ""; // the section in the address
let writing = 0;

const written = () => {
  const asked = new URLSearchParams();
  Object.keys(VIEW).forEach((name) => {
    const value = LISTS.includes(name) ? view[name].join(";") : view[name];
    if (value) asked.set(name, value);
  });
  const text = asked.toString();
  return `#${place}${text ? `?${text}` : ""}`;
};
const write = () => {
  clearTimeout(writing); // browsers refuse more than some hundred changes of address in a row
  writing = setTimeout(() => {
    if (written() !== location.hash && (written() !== "#" || location.hash)) history.replaceState(null, "", written());
  }, 150);
};
const change = (values) => {
  const names = Object.keys(values).filter((n) => String(view[n]) !== String(values[n]));
  Object.assign(view, values);
  if (names.length) parts.forEach((act) => act(names));
  write();
};
const read = () => {
  const [where, asked] = location.hash.slice(1).split(/\?(.*)/s);
  place = where || "";
  if (asked === undefined) return false;
  const found = new URLSearchParams(asked);
  const values = Object.fromEntries(Object.keys(VIEW).map((name) => {
    const value = found.get(name) || "";
    return [name, LISTS.includes(name) ? value.split(";").filter(Boolean) : value];
  }));
  change(values);
  return true;
};
const goTo = (id) => {
  const node = document.getElementById(id);
  if (!node) return;
  place = id;
  node.scrollIntoView();
  node.tabIndex = -1; // the keyboard and a screen reader go on from there
  node.focus({ preventScroll: true });
  write();
};
const linkTo = (values, where) => {
  const kept = [{ ...view }, place];
  Object.assign(view, values);
  place = where;
  const link = location.href.split("#")[0] + written();
  Object.assign(view, kept[0]);
  place = kept[1];
  return link;
};
const copy = async (text, node) => {
  const before = node.textContent;
  try { await navigator.clipboard.writeText(text); node.textContent = "copied"; } catch {
    const field = make("textarea", text);
    document.body.append(field);
    field.select();
    node.textContent = document.execCommand("copy") ? "copied" : "not copied";
    field.remove();
  }
  setTimeout(() => { node.textContent = before; }, 1500);
};
