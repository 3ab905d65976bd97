// The table of runs.
const runsPage = () => {
  const ticked = []; // names, the last two
  const boxes = new Map();
  let all = [];
  const tick = (cell, row) => {
    const box = make("input");
    box.type = "checkbox";
    box.setAttribute("aria-label", `compare ${row.name}`);
    box.checked = ticked.includes(row.name);
    box.addEventListener("change", () => {
      if (box.checked) ticked.push(row.name);
      else ticked.splice(ticked.indexOf(row.name), 1);
      if (ticked.length > 2) { const gone = boxes.get(ticked.shift()); if (gone) gone.checked = false; }
      choose();
    });
    boxes.set(row.name, box);
    cell.replaceChildren(box);
  };
  const choose = () => {
    const paths = ticked.map((name) => all.find((row) => row.name === name)?.path).filter(Boolean);
    $("chosen").hidden = paths.length === 0;
    setText($("chosen-words"), paths.length === 2 ? "Compare them:" : "Tick one more run to compare.");
    $("chosen-command").hidden = document.querySelector("[data-copy]").hidden = paths.length !== 2;
    setText($("chosen-command"), `prefeval compare ${paths.join(" ")}`);
  };
  const update = table($("runs"), [
    { head: "", className: "tick", of: (r) => ({ name: r.name }), show: tick },
    { head: "run", className: "words", of: (r) => [r.name, r.href, r.live], value: (r) => r.name, show: (cell, [name, href, live]) => {
      const link = make("a", name);
      link.href = href;
      const dot = make("span", undefined, "dot");
      dot.title = "a process is at work on it";
      cell.replaceChildren(...(live ? [dot] : []), link);
    } },
    { head: "state", className: "l", of: (r) => [r.state, r.failed, r.href, r.error], value: (r) => r.state, show: (cell, [state, failed, href, error]) => {
      const link = make("a");
      link.href = `${href}live`;
      link.title = error || "its trials, checkpoints and journal";
      link.append(make("span", failed ? `${state === "failed trials" ? "" : `${state}, `}${failed} failed` : state, `st ${failed && state === "running" ? "bad" : tone(state)}`));
      cell.replaceChildren(link);
    } },
    { head: "trials", className: "l", of: (r) => [r.share, r.done, r.total, r.live, r.left], value: (r) => r.share, show: (cell, [share, done, total, live, left]) => {
      cell.className = `l${live ? "" : " idle"}`;
      if (!total) { cell.replaceChildren(live ? "preparing" : ""); return; }
      const count = `${done}/${total}`;
      cell.replaceChildren(...(share < 1 ? [bar(share), ` ${count} `] : [count]), ...(left ? [make("small", `about ${left} left`)] : []));
    } },
    { head: "recommended", className: "l", of: (r) => (r.best ? r.best.name : ""), value: (r) => (r.best ? r.best.name : "") },
    { head: "LC WR, % [95%]", of: (r) => (r.best ? r.best.lc : null), value: (r) => (r.best ? r.best.lc.value : null), show: (cell, lc) => { if (lc) rateText(cell, lc); else cell.replaceChildren(); } },
    { head: "methods", className: "words", of: (r) => r.methods, value: (r) => r.methods },
    { head: "model", className: "words", of: (r) => r.model, value: (r) => r.model },
    { head: "data", className: "words", of: (r) => r.data, value: (r) => r.data },
    { head: "started", of: (r) => at(r.started), value: (r) => r.started },
  ], (r) => r.name);
  const filter = () => {
    const words = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (r) => [r.name, r.state, r.failed ? "failed" : "", r.methods, r.model, r.data, r.best ? r.best.name : ""].join(" ").toLowerCase();
    const found = all.filter((r) => words.every((w) => text(r).includes(w)));
    update(found);
    $("none").hidden = found.length > 0;
    setText($("none"), all.length ? "No run fits the filter." : "No run here yet; `prefeval sweep` makes one, and it appears.");
    setText($("count"), `${found.length === all.length ? "" : `${found.length} of `}${all.length} ${all.length === 1 ? "run" : "runs"}`);
  };
  $("query").addEventListener("input", filter);
  return (rows) => {
    const before = new Map(all.map((r) => [r.name, r.state]));
    const news = rows.filter((r) => before.size && before.get(r.name) !== r.state);
    if (news.length) say(news.map((r) => `${r.name}: ${r.state}`).join(", "));
    all = rows;
    filter();
    choose();
  };
};
