// A table whose rows are kept, sorted by its heads.
// A column: head, of(row) -> what its cell shows, show(cell, that), value(row) to sort by.
const table = (node, columns, id) => {
  const body = make("tbody");
  const rows = new Map();
  let sorted = null; // [column, down]
  let shown = [];
  const heads = columns.map((column) => {
    const th = make("th", undefined, column.className);
    th.scope = "col";
    if (column.value) {
      const button = make("button", column.head);
      button.type = "button";
      button.addEventListener("click", () => {
        const down = !(sorted && sorted[0] === column && sorted[1]);
        sorted = [column, down];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        arrange();
      });
      th.append(button);
    } else th.textContent = column.head;
    if (column.title) th.title = column.title;
    return th;
  });
  const head = make("thead");
  const line = make("tr");
  line.append(...heads);
  head.append(line);
  node.append(head, body);
  const missing = (value) => value === null || value === undefined || value === "";
  const arrange = () => {
    const wanted = [...shown];
    if (sorted) {
      const [column, down] = sorted;
      wanted.sort((a, b) => {
        const [x, y] = [column.value(a), column.value(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const sign = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -sign : sign;
      });
    }
    const focused = document.activeElement;
    wanted.forEach((row, place) => {
      const tr = rows.get(id(row)).tr;
      if (body.rows[place] !== tr) body.insertBefore(tr, body.rows[place] || null);
    });
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  };
  return (data) => {
    shown = data;
    const names = new Set(data.map(id));
    rows.forEach((row, name) => { if (!names.has(name)) { row.tr.remove(); rows.delete(name); } });
    data.forEach((row) => {
      let known = rows.get(id(row));
      if (!known) {
        const tr = make("tr");
        tr.append(...columns.map((c) => make("td", undefined, c.className)));
        known = { tr };
        rows.set(id(row), known);
      }
      columns.forEach((column, i) => draw(known.tr.cells[i], column.of(row), column.show || ((cell, text) => { cell.textContent = text; })));
    });
    arrange();
    return (name) => rows.get(name)?.tr;
  };
};
const marked = (cell, [method, label]) => {
  const mark = method === null ? null : $(`mark-${method}`);
  cell.replaceChildren(...(mark ? [mark.content.cloneNode(true), " "] : []), label);
};
const interval = (cell, [rate, low, high]) => {
  cell.replaceChildren();
  if (rate.value === null) return;
  const x = (value) => (4 + (112 * (value - low)) / (high - low || 1)).toFixed(1);
  const picture = svg("svg", { width: 120, height: 16, "aria-hidden": "true" },
    svg("line", { x1: x(50), x2: x(50), y1: 0, y2: 16, class: "level" }));
  if (rate.low !== null) picture.append(svg("line", { x1: x(rate.low), x2: x(rate.high), y1: 8, y2: 8, class: "ci" }));
  picture.append(svg("circle", { cx: x(rate.value), cy: 8, r: 3.5, class: "mark" }));
  cell.append(picture);
};
const rateText = (cell, rate) => {
  const [value, ends] = rate.text.split(/ (.*)/s);
  cell.replaceChildren(value, ...(ends ? [" ", make("span", ends, "ci")] : []));
  cell.title = rate.n ? `length-controlled win rate, %${rate.n}` : "";
};
const curve = (cell, found) => {
  cell.replaceChildren();
  if (!found || !found.points.length) return;
  const [low, high] = [Math.min(...found.points), Math.max(...found.points)];
  const x = (i) => (1 + (78 * i) / Math.max(1, found.points.length - 1)).toFixed(1);
  const y = (v) => (17 - (14 * (v - low)) / (high - low || 1)).toFixed(1);
  const last = found.points.length - 1;
  const picture = svg("svg", { width: 82, height: 20, "aria-hidden": "true" },
    svg("polyline", { points: found.points.map((v, i) => `${x(i)},${y(v)}`).join(" "), class: "spark" }),
    svg("circle", { cx: x(last), cy: y(found.points[last]), r: 1.8, class: "spark-end" }));
  cell.append(picture, make("span", found.text));
  cell.title = `from ${low} to ${high}`;
};
