// Zoom: drag over a part of a chart, or + and − on the keyboard; double-click or 0 shows all.
// Charts come drawn, in pixels. Zooming moves what is drawn by the straight map from the old
// pixels to the new ones (log axes are straight in pixels too) and draws the ticks anew.
const SVG = "http://www.w3.org/2000/svg";
const scaleOf = (text) => {
  const [low, high, start, end, log] = text.split(" ");
  return { low: +low, high: +high, start: +start, end: +end, log: log === "log" };
};
const raw = (s, v) => (s.log ? Math.log(v) : v);
const pixel = (s, v) => s.start + (raw(s, v) - raw(s, s.low)) / (raw(s, s.high) - raw(s, s.low)) * (s.end - s.start);
const valueAt = (s, p) => {
  const v = raw(s, s.low) + (p - s.start) / (s.end - s.start) * (raw(s, s.high) - raw(s, s.low));
  return s.log ? Math.exp(v) : v;
};
const ticksOf = (low, high, count) => {
  const step = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(step));
  const nice = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= step * 0.9);
  const found = [];
  for (let k = Math.ceil(low / nice); k * nice <= high; k += 1) found.push(+(k * nice).toPrecision(10));
  return found;
};
const numberText = (v) => String(+v.toPrecision(4)).replace("-", "\u2212");
const drawn = (tag, attributes, text) => {
  const node = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([k, v]) => node.setAttribute(k, v));
  if (text !== undefined) node.textContent = text;
  return node;
};

const GEOMETRY = { line: ["x1", "y1", "x2", "y2"], rect: ["x", "y", "width", "height"], circle: ["cx", "cy"], polygon: ["points"], path: ["d"], text: ["x", "y"] };
const FIXED = ".grid, .axis, .tick, .title, .note, .head";
const charts = $$("figure > svg.chart[data-x]").filter((svg) => $(".pt", svg)).map((svg, i) => {
  const id = `${svg.closest("section").id}.${i}`;
  const moving = $$("line, rect, circle, polygon, path, text", svg).filter((n) => !n.matches(FIXED))
    .map((node) => ({ node, from: Object.fromEntries(GEOMETRY[node.localName].map((a) => [a, node.getAttribute(a)])) }));
  return { svg, id, moving, x: scaleOf(svg.dataset.x), y: scaleOf(svg.dataset.y), cut: false };
});
const byId = new Map(charts.map((c) => [c.id, c]));

const redraw = (chart, [x0, x1, y0, y1]) => {
  const { svg, x, y } = chart;
  const at = (s, low, high) => (p) => {
    const [a, b] = [pixel(s, low), pixel(s, high)];
    return s.start + (p - a) / (b - a) * (s.end - s.start);
  };
  const mx = at(x, x0, x1);
  const my = at(y, y0, y1);
  const f = (v) => v.toFixed(2);
  chart.moving.forEach(({ node, from }) => {
    const n = (name) => +from[name];
    const set = (values) => Object.entries(values).forEach(([k, v]) => node.setAttribute(k, v));
    if (node.localName === "line") set({ x1: f(mx(n("x1"))), x2: f(mx(n("x2"))), y1: f(my(n("y1"))), y2: f(my(n("y2"))) });
    else if (node.localName === "circle") set({ cx: f(mx(n("cx"))), cy: f(my(n("cy"))) });
    else if (node.localName === "rect") {
      const [left, right, top, foot] = [mx(n("x")), mx(n("x") + n("width")), my(n("y")), my(n("y") + n("height"))];
      set({ x: f(left), width: f(right - left), y: f(top), height: f(foot - top) });
    } else if (node.localName === "polygon") {
      const corners = from.points.split(" ").map((c) => c.split(",").map(Number));
      const mid = node.dataset.at.split(" ").map(Number);
      const [dx, dy] = [mx(mid[0]) - mid[0], my(mid[1]) - mid[1]];
      set({ points: corners.map(([a, b]) => `${f(a + dx)},${f(b + dy)}`).join(" ") });
    } else if (node.localName === "path") {
      set({ d: from.d.replace(/(-?[\d.]+) (-?[\d.]+)/g, (_, a, b) => `${f(mx(+a))} ${f(my(+b))}`) });
    } else {
      const [a, b] = (node.dataset.at || `${from.x} ${from.y}`).split(" ").map(Number);
      set({ x: f(n("x") + mx(a) - a), y: f(n("y") + my(b) - b) });
    }
    if (node.localName !== "text") node.setAttribute("clip-path", `url(#clip-${chart.id})`);
    else {
      const [a, b] = [+node.getAttribute("x"), +node.getAttribute("y")];
      node.classList.toggle("outside", a < x.start - 4 || a > x.end || b > y.start || b < y.end);
    }
  });
  $$(".pt", svg).forEach((p) => {
    const mark = $(".mark", p);
    if (!mark) return;
    const [a, b] = mark.localName === "circle" ? [mark.getAttribute("cx"), mark.getAttribute("cy")]
      : mark.getAttribute("points").split(" ")[0].split(",");
    p.classList.toggle("outside", +a < x.start - 9 || +a > x.end + 9 || +b > y.start + 9 || +b < y.end - 9);
  });
};

const frameOf = (chart, [x0, x1, y0, y1]) => {
  const { x, y } = chart;
  const group = drawn("g", { class: "zoom-axes" });
  const lines = (s, low, high, count) => {
    if (!s.log || high / low < 8) return ticksOf(low, high, count);
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += 1) [1, 3].forEach((m) => found.push(+(m * 10 ** e).toPrecision(6)));
    return found.filter((v) => v >= low && v <= high);
  };
  const new_x = { ...x, low: x0, high: x1 };
  const new_y = { ...y, low: y0, high: y1 };
  lines(y, y0, y1, 5).forEach((v) => {
    const p = pixel(new_y, v);
    group.append(drawn("line", { x1: x.start, x2: x.end, y1: p, y2: p, class: "grid" }), drawn("text", { x: x.start - 6, y: p + 4, "text-anchor": "end", class: "tick" }, numberText(v)));
  });
  lines(x, x0, x1, (x.end - x.start) / 90).forEach((v) => {
    const p = pixel(new_x, v);
    group.append(drawn("line", { x1: p, x2: p, y1: y.start, y2: y.start + 4, class: "axis" }), drawn("text", { x: p, y: y.start + 16, "text-anchor": "middle", class: "tick" }, numberText(v)));
  });
  group.append(drawn("line", { x1: x.start, x2: x.end, y1: y.start, y2: y.start, class: "axis" }));
  return group;
};

const showZoom = (chart, range) => {
  const { svg, x, y } = chart;
  $$(".zoom-axes", svg).forEach((n) => n.remove());
  svg.classList.toggle("zoomed", Boolean(range));
  if (range) {
    if (!chart.cut) {
      const clip = drawn("clipPath", { id: `clip-${chart.id}` });
      clip.append(drawn("rect", { x: x.start, y: y.end, width: x.end - x.start, height: y.start - y.end }));
      svg.prepend(clip);
      chart.cut = true;
    }
    svg.prepend(frameOf(chart, range));
    redraw(chart, range);
  } else {
    chart.moving.forEach(({ node, from }) => {
      Object.entries(from).forEach(([k, v]) => node.setAttribute(k, v));
      node.removeAttribute("clip-path");
      node.classList.remove("outside");
    });
    $$(".pt.outside", svg).forEach((p) => p.classList.remove("outside"));
  }
};
// What can be shown of what was asked for: the part inside the chart; null below a thousandth of it.
const partOf = ({ x, y }, asked) => {
  const range = [[x, 0], [y, 2]].flatMap(([s, i]) => [Math.max(asked[i], s.low), Math.min(asked[i + 1], s.high)]);
  const shares = [[x, 0], [y, 2]].map(([s, i]) => (pixel(s, range[i + 1]) - pixel(s, range[i])) / (s.end - s.start));
  return shares.every((share) => share >= 0.001) ? range : null;
};
const zooms = () => new Map(view.zoom.map((z) => [z.split(",")[0], z.split(",").slice(1).map(Number)]));
let zoomed = new Set();
parts.push((names) => {
  if (!names.includes("zoom")) return;
  const wanted = zooms();
  zoomed.forEach((id) => { if (!wanted.has(id)) showZoom(byId.get(id), null); });
  zoomed = new Set();
  wanted.forEach((asked, id) => {
    const chart = byId.get(id);
    const range = chart && partOf(chart, asked);
    if (!range) return;
    showZoom(chart, range);
    zoomed.add(id);
  });
});
const zoomTo = (chart, range) => {
  if (range && !partOf(chart, range)) return;
  const rest = view.zoom.filter((z) => z.split(",")[0] !== chart.id);
  change({ zoom: range ? [...rest, [chart.id, ...range.map((v) => +v.toPrecision(5))].join(",")] : rest });
};
const rangeOf = (chart) => zooms().get(chart.id) || [chart.x.low, chart.x.high, chart.y.low, chart.y.high];
// By a factor around a pixel, never beyond the whole chart.
const zoomBy = (chart, factor, px, py) => {
  const [x0, x1, y0, y1] = rangeOf(chart);
  const next = [[chart.x, x0, x1, px], [chart.y, y0, y1, py]].flatMap(([s, low, high, p]) => {
    const now = { ...s, low, high };
    const ends = [s.start, s.end].map((e) => valueAt(now, p + (e - p) * factor)).sort((a, b) => a - b);
    return [Math.max(s.low, ends[0]), Math.min(s.high, ends[1])];
  });
  const whole = next[0] <= chart.x.low && next[1] >= chart.x.high && next[2] <= chart.y.low && next[3] >= chart.y.high;
  zoomTo(chart, whole ? null : next);
};

charts.forEach((chart) => {
  const { svg, x, y } = chart;
  const toPixels = (event) => {
    const box = svg.getBoundingClientRect();
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    return [(event.clientX - box.x) / box.width * width, (event.clientY - box.y) / box.height * height];
  };
  const within = (s, p) => Math.min(Math.max(p, Math.min(s.start, s.end)), Math.max(s.start, s.end));
  let from = null;
  let box = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button || event.pointerType === "touch") return;
    const [a, b] = toPixels(event);
    if (a < x.start || a > x.end || b > y.start || b < y.end) return;
    from = [a, b];
  });
  svg.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [a, b] = toPixels(event);
    if (!box && Math.hypot(a - from[0], b - from[1]) < 6) return;
    if (!box) {
      box = drawn("rect", { class: "zoom-box" });
      svg.append(box);
      svg.setPointerCapture(event.pointerId);
      cool();
    }
    const [cx, cy] = [within(x, a), within(y, b)];
    Object.entries({ x: Math.min(cx, from[0]), y: Math.min(cy, from[1]), width: Math.abs(cx - from[0]), height: Math.abs(cy - from[1]) })
      .forEach(([k, v]) => box.setAttribute(k, v));
  });
  const end = (event) => {
    if (box && event.type === "pointerup") {
      const [left, top, width, height] = ["x", "y", "width", "height"].map((k) => +box.getAttribute(k));
      const [x0, x1, y0, y1] = rangeOf(chart);
      const [nx, ny] = [{ ...x, low: x0, high: x1 }, { ...y, low: y0, high: y1 }];
      if (width > 8 && height > 8) zoomTo(chart, [valueAt(nx, left), valueAt(nx, left + width), valueAt(ny, top + height), valueAt(ny, top)]);
      svg.addEventListener("click", (e) => e.stopPropagation(), { once: true, capture: true });
      setTimeout(() => svg.dispatchEvent(new Event("click")), 0); // where no click followed
    }
    box?.remove();
    box = null;
    from = null;
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  svg.addEventListener("dblclick", (event) => { event.preventDefault(); getSelection().removeAllRanges(); zoomTo(chart, null); });
  svg.addEventListener("keydown", (event) => {
    const mark = over && svg.contains(over) && $(".mark", over);
    const r = mark && mark.getBoundingClientRect();
    const [px, py] = mark ? toPixels({ clientX: r.x + r.width / 2, clientY: r.y + r.height / 2 }) : [(x.start + x.end) / 2, (y.start + y.end) / 2];
    if (event.key === "+" || event.key === "=") zoomBy(chart, 0.6, px, py);
    else if (event.key === "-") zoomBy(chart, 1 / 0.6, px, py);
    else if (event.key === "0") zoomTo(chart, null);
    else return;
    event.preventDefault();
  });
  const tools = make("div", undefined, "zoomer");
  const middle = [(x.start + x.end) / 2, (y.start + y.end) / 2];
  tools.append(
    button("+", "zoom in; or drag over a part of the chart", () => zoomBy(chart, 0.6, ...middle)),
    button("−", "zoom out", () => zoomBy(chart, 1 / 0.6, ...middle)),
    button("all", "the whole chart (double-click)", () => zoomTo(chart, null)),
  );
  $$("button", tools).forEach((b) => { b.tabIndex = -1; }); // the keyboard has + − 0 in the chart itself
  svg.parentNode.append(tools);
});
