// The page as a whole: where the reader is, links and copies, and the view in the address.
const links = $$(".bar nav a");
const reading = new IntersectionObserver((entries) => {
  const entry = entries.find((e) => e.isIntersecting);
  if (!entry) return;
  links.forEach((a) => {
    const here = a.hash === `#${entry.target.id}`;
    a.classList.toggle("here", here);
    if (here) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
  });
}, { rootMargin: "-20% 0px -70% 0px" });
$$("main > section").forEach((section) => reading.observe(section));
$$('a[href^="#"]').forEach((a) => a.addEventListener("click", (event) => {
  event.preventDefault();
  goTo(a.hash.slice(1));
}));

$$("[data-copy]").forEach((b) => b.addEventListener("click", () => copy(document.getElementById(b.dataset.copy).textContent, b)));
$("#link").addEventListener("click", (e) => copy(linkTo({}, place || "verdict"), e.currentTarget));
const help = $("#help");
$("#help-open").addEventListener("click", () => help.showModal());
$("#help-close").addEventListener("click", () => help.close());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !event.target.closest("input, select, textarea, dialog")) help.showModal();
  if (event.key === "/" && !event.target.closest("input, select, textarea, dialog") && $("#s-query")) {
    event.preventDefault();
    goTo("samples");
    $("#s-query").focus({ preventScroll: true });
  }
});

// What scrolls can be scrolled by the keyboard too.
const reachable = () => $$(".scroll, pre").forEach((box) => {
  const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
  if (scrolls) box.tabIndex = 0; else box.removeAttribute("tabindex");
});
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);
reachable();

const opened = () => {
  read();
  if (place) document.getElementById(place)?.scrollIntoView();
};
addEventListener("hashchange", opened);
opened();
document.documentElement.dataset.ready = "true";
