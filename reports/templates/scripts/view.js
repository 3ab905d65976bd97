// Asks the server, and shows what it answers.
const EVERY = 2000; // ms between two questions
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText($(button.dataset.copy).textContent);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren($(button.dataset.copy));
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

try { document.documentElement.style.colorScheme = localStorage.getItem("prefeval-theme") || ""; } catch { /* no store */ }
const show = kind === "runs" ? runsPage() : runPage();
const where = kind === "runs" ? "/api/runs" : `/api${first.run.href.replace(/\/$/, "")}`;
show(first);
let tag = "";
const ask = async () => {
  try {
    const answer = await fetch(where, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag") || "";
      show(await answer.json());
    } else if (answer.status !== 304) throw new Error((await answer.text()).trim());
    setText($("link-state"), "");
    setClass($("link-state"), "link-state");
  } catch (error) {
    setText($("link-state"), error instanceof TypeError ? "the server does not answer; asking again" : error.message);
    setClass($("link-state"), "link-state bad");
  }
  setTimeout(ask, EVERY);
};
setTimeout(ask, EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) say(""); });
