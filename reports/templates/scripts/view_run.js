// One run.
const runPage = () => {
  let before = "";
  const several = () => current.trials.some((t) => t.seed !== current.trials[0].seed);
  let current = first;
  const label = (t) => [t.method, several() ? `${t.label} seed ${t.seed}` : t.label];
  const column = (head, name, title) => ({ head, title, className: "curve", of: (t) => t.curves[name] || null, show: curve, value: (t) => t.curves[name]?.last });
  // A long reason is folded in its middle: what is wrong stands first, what to do last.
  const reason = (error) => {
    if (error.length < 200) return make("div", error, "why");
    const details = make("details", undefined, "why");
    details.append(make("summary", `${error.slice(0, 80)} … ${error.slice(-70)}`), make("div", error));
    return details;
  };
  const trials = table($("trials"), [
    { head: "method β", className: "l", of: label, show: marked, value: (t) => t.label },
    { head: "state", className: "l", of: (t) => [t.state, t.error], value: (t) => t.state, show: (cell, [state, error]) => {
      cell.className = error ? "words" : "l";
      cell.replaceChildren(chip(state), ...(error ? [reason(error)] : []));
    } },
    { head: "progress", className: "l", of: (t) => [t.share, t.step, t.steps, t.state, t.measured, t.saved], value: (t) => t.share, show: (cell, [share, step, steps, state, measured, saved]) => {
      const of = steps && steps !== step ? ` of ${steps}` : "";
      const words = state === "measuring" ? `${measured} of ${saved} measured` : step ? `step ${step}${of}` : "";
      cell.className = state === "failed" ? "l bad" : state === "stopped" ? "l idle" : "l";
      const open = !["finished", "trained", "waiting", "not started", "failed"].includes(state);
      cell.replaceChildren(...(open ? [bar(share), " "] : []), make("small", words));
    } },
    column("loss", "loss"), column("Δchosen", "delta_chosen", "change of the chosen answers' log-probability, nats/sequence"),
    column("KL", "kl", "the trainer's estimate on its batches, nats/sequence; below it is measured on the policy's own answers"),
    { ...column("reward", "reward"), className: "curve reward" },
    { head: "LC WR, % [95%]", title: "of its last measured checkpoint", of: (t) => t.lc, value: (t) => t.lc?.value, show: (cell, lc) => { if (lc) rateText(cell, lc); else cell.replaceChildren(); } },
  ], (t) => t.name);
  const checkpoints = table($("checkpoints"), [
    { head: "checkpoint", className: "l", of: label, show: marked, value: (c) => c.label },
    { head: "step", of: (c) => c.step || "", value: (c) => c.step },
    { head: "LC WR", className: "g", of: (c) => [c.lc, ...range(), c.method], show: (cell, [lc, low, high, method]) => { cell.className = `g m${method}`; interval(cell, [lc, low, high]); } },
    { head: "LC WR, % [95%]", of: (c) => c.lc, show: rateText, value: (c) => c.lc.value },
    ...[["raw WR", "raw"], ["KL", "kl"], ["length", "length"]].map(([head, name]) => ({ head, of: (c) => c[name].text, value: (c) => c[name].value })),
  ], (c) => c.id);
  const range = () => {
    const ends = current.checkpoints.flatMap((c) => [c.lc.low, c.lc.high, c.lc.value]).filter((v) => v !== null);
    return [Math.floor(Math.min(45, ...ends)), Math.ceil(Math.max(55, ...ends))];
  };
  const words = (run) => {
    if (run.error) return run.error;
    if (run.live && !run.measured && current.trials.every((t) => t.state === "waiting")) return "Preparing: model, data, and what all trials share.";
    return [run.methods, run.model === run.data ? run.model : `${run.model} on ${run.data}`, run.started ? `started ${at(run.started)}` : ""].filter(Boolean).join(" · ");
  };
  const tiles = (run) => {
    const best = current.checkpoints.reduce((a, c) => (c.lc.value !== null && (!a || c.lc.value > a.lc.value) ? c : a), null);
    const trials = current.trials.length;
    return [
      trials ? ["trials", `${run.done}/${run.total}`, run.failed ? `${run.failed} failed` : "done"] : null,
      ["checkpoints", String(run.measured), "measured"],
      run.left ? ["time left", run.left, "about"] : null,
      run.live && best ? ["highest LC WR so far", best.lc.text.split(" ")[0], `${label(best)[1]}${best.step ? `, step ${best.step}` : ""}`, "the highest of those measured is flattered by chance; the verdict at the end is not"] : null,
      run.best && !run.live ? ["LC WR", `${run.best.lc.text.split(" ")[0]}%`, run.best.name] : null,
    ].filter(Boolean);
  };
  const next = (node, [run, hasTrials]) => {
    const link = (text, where) => { const a = make("a", text); a.href = where; return a; };
    const base = run.href;
    const lines = [];
    const over = run.state === "finished" || run.state === "failed trials";
    const line = (...parts) => { const p = make("p"); p.append(...parts); lines.push(p); };
    if (over && run.best) line(make("b", `Recommended: ${run.best.name}`), `, LC win rate ${run.best.lc.text}%${run.best.lc.n}. `);
    if (over && hasTrials && run.measured) line(link("Open the report", `${base}report.html`));
    else if (!over && hasTrials && run.share > 0) line(link("The report so far", `${base}report.html`), run.live ? " is made when you open it; the run goes on." : " shows what was measured.");
    if (run.state === "interrupted" && run.command) line("Nobody is at work on this run. To continue: ", make("code", run.command));
    node.hidden = !lines.length;
    node.replaceChildren(...lines);
  };
  const tile = ([name, text, small, title]) => {
    const div = make("div");
    const dd = make("dd", text);
    dd.append(make("small", small));
    div.append(make("dt", name), dd);
    if (title) div.title = title;
    return div;
  };
  return (data) => {
    current = data;
    const run = data.run;
    setText($("where"), run.path);
    setText($("state"), run.state);
    setText($("name"), run.name);
    setText($("words"), words(run));
    setClass($("hero"), `card hero ${tone(run.state)}${run.live ? "" : " idle"}`);
    if ($("bar").value !== run.share || !$("bar").hasAttribute("value")) $("bar").value = run.share;
    draw($("tiles"), tiles(run), (node, found) => node.replaceChildren(...found.map(tile)));
    setClass($("trials"), data.trials.some((t) => t.curves.reward) ? "live" : "live no-reward");
    draw($("next"), [run, data.trials.length > 0], next);
    trials(data.trials);
    checkpoints(data.checkpoints);
    setText($("ck-none"), data.checkpoints.length ? "" : "None is measured yet.");
    draw($("events"), data.events, (node, events) => {
      node.replaceChildren(...events.map((e) => {
        const li = make("li", undefined, e.event);
        li.append(make("time", at(e.time)), make("b", e.event), make("span", e.text));
        return li;
      }));
      if (!events.length) node.append(make("li", "No line yet."));
    });
    draw($("files"), data.files, (node, files) => node.replaceChildren(...files.map((f) => {
      const a = make("a", f);
      a.href = run.href + f.split("/").map(encodeURIComponent).join("/");
      return a;
    })));
    document.title = run.live ? `${Math.floor(100 * run.share)}% ${run.name}` : `${run.name}: ${run.state}`;
    if (before && before !== run.state) say(`${run.name}: ${run.state}`);
    before = run.state;
  };
};
