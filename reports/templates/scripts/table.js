// The checkpoint table: sort by a column (rows without a value stay last), filter by words,
// comparisons ("kl<5 dpo") and verdict.
const table = $("table.sortable");
if (table) {
  const body = table.tBodies[0];
  const heads = $$("thead th", table);
  const nameOf = (head) => head.dataset.name || "";
  const cellValue = (row, column) => {
    const found = row.cells[column].dataset.v;
    const n = found === "" || found === undefined ? NaN : Number(found);
    return Number.isNaN(n) ? found || "" : n;
  };
  const sorted = () => {
    const [name, way] = view.sort.split(":");
    const head = heads.find((h) => nameOf(h) === name);
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    if (!head) return;
    const down = way !== "up";
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => {
      const [x, y] = [cellValue(a, head.cellIndex), cellValue(b, head.cellIndex)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -sign : sign;
    };
    body.append(...[...body.rows].sort(order));
    $$("tr.first", body).forEach((row) => row.classList.remove("first"));
  };
  $$("thead button", table).forEach((b) => b.addEventListener("click", () => {
    const name = nameOf(b.closest("th"));
    change({ sort: `${name}:${view.sort === `${name}:down` ? "up" : "down"}` });
  }));

  const COMPARE = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
  const words = $("#t-words");
  const state = $("#t-state");
  // One word of the filter as a test of a row; null where it names no column.
  const test = (word) => {
    const found = word.match(/^([^<>=]+)(<=|>=|<|>|=)(-?[\d.]+)$/);
    if (!found) return (row) => row.textContent.toLowerCase().includes(word);
    const wanted = found[1].replace("beta", "β");
    const exact = heads.find((h) => nameOf(h) === wanted);
    const head = exact || heads.find((h) => nameOf(h).startsWith(wanted));
    if (!head) return null;
    return (row) => {
      const v = cellValue(row, head.cellIndex);
      return typeof v === "number" && COMPARE[found[2]](v, Number(found[3]));
    };
  };
  const filtered = () => {
    const tests = view.rows.toLowerCase().split(/\s+/).filter(Boolean).map((w) => [w, test(w)]);
    const unknown = tests.filter(([, t]) => !t).map(([w]) => w);
    const used = tests.map(([, t]) => t).filter(Boolean);
    let count = 0;
    [...body.rows].forEach((row) => {
      const mine = row.dataset.state || "";
      const fits = (!view.state || (view.state === "chosen" ? mine !== "" : mine === view.state)) && used.every((t) => t(row));
      row.classList.toggle("filtered", !fits);
      count += fits && !row.classList.contains("off");
    });
    words.setAttribute("aria-invalid", String(unknown.length > 0));
    $("#t-count").textContent = unknown.length ? `no column is called ${unknown.join(", ")}`
      : count < body.rows.length ? `${count} of ${body.rows.length}` : `${count}`;
    if (words.value !== view.rows) words.value = view.rows;
    state.value = view.state;
  };
  words.addEventListener("input", () => change({ rows: words.value }));
  state.addEventListener("change", () => change({ state: state.value }));
  parts.push((names) => {
    if (names.includes("sort")) sorted();
    if (["rows", "state", "off"].some((n) => names.includes(n))) filtered();
  });
  filtered();
}
