/* A reference to an equation or to a word of the glossary shows what it refers to.
 *
 * The build writes what is shown into the page, one <template data-preview="…"> for each target.
 * The preview opens under the pointer and under the keyboard's focus; a finger's first tap opens it,
 * the second follows the link. It stays while the pointer is on it, and Escape puts it away
 * (WCAG 1.4.13, content on hover or focus).
 */
document.addEventListener("DOMContentLoaded", () => {
  const templates = new Map();
  for (const template of document.querySelectorAll("template[data-preview]"))
    templates.set(template.dataset.preview, template);

  const box = document.createElement("div");
  box.id = "reference-preview";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);

  let shown = null; // the link whose preview is open
  let put_away = null; // the link whose preview Escape closed: it waits for the reader to leave
  let timer = 0;

  const anchor = (link) => decodeURIComponent(link.hash.slice(1));
  for (const link of document.querySelectorAll("main a[href*='#']:not(.headerlink)"))
    if (templates.has(anchor(link))) link.classList.add("has-preview", anchor(link).split("-")[0] + "-preview");

  const link_at = (event) => event.target.closest?.("a.has-preview") ?? null;

  function hide() {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  }

  function place() {
    const edge = 8;
    const [first] = shown.getClientRects(); // a link may break over two lines
    const width = box.offsetWidth;
    const room = document.documentElement.clientWidth;
    const left = Math.max(edge, Math.min(first.left, room - width - edge));
    const above = first.top - box.offsetHeight - 4;
    const below = shown.getBoundingClientRect().bottom + 4;
    const fits = below + box.offsetHeight <= window.innerHeight || above < 0;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${(fits ? below : above) + window.scrollY}px`;
  }

  async function show(link) {
    clearTimeout(timer);
    if (link === shown) return;
    hide();
    shown = link;
    window.MathJax?.typesetClear?.([box]);
    box.replaceChildren(templates.get(anchor(link)).content.cloneNode(true));
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    place();
    if (!box.querySelector(".math") || !window.MathJax?.startup) return;
    await MathJax.startup.promise;
    if (shown !== link) return;
    await MathJax.typesetPromise([box]);
    if (shown !== link) return;
    for (const formula of box.querySelectorAll("mjx-container")) {
      formula.removeAttribute("tabindex"); // a tooltip holds nothing to stop at
      // A formula wider than the box is written smaller: there is no way to scroll a tooltip by keyboard.
      const ratio = formula.clientWidth / formula.scrollWidth;
      if (ratio < 1) formula.style.fontSize = `${Math.floor(parseFloat(getComputedStyle(formula).fontSize) * ratio)}px`;
    }
    place();
  }

  const later = (action) => {
    clearTimeout(timer);
    timer = setTimeout(action, 200); // time to move from the link to the preview, and not to open by chance
  };

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const link = link_at(event);
    if (link !== put_away && document.activeElement !== put_away) put_away = null;
    if (link && link !== put_away) later(() => show(link));
    else if (box.contains(event.target)) clearTimeout(timer);
    else if (document.activeElement === shown) clearTimeout(timer);
    else later(hide);
  });
  document.addEventListener("focusin", (event) => {
    const link = link_at(event);
    if (link && link.matches(":focus-visible") && link !== put_away) show(link);
  });
  document.addEventListener("focusout", (event) => {
    put_away = null;
    if (link_at(event) === shown) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !shown) return;
    put_away = shown;
    hide();
  });
  // A tap comes as pointerdown and click; only its first opens the preview instead of the page.
  let finger = false;
  document.addEventListener("pointerdown", (event) => {
    finger = event.pointerType === "touch";
    if (finger && link_at(event) !== shown && !box.contains(event.target)) hide();
  });
  document.addEventListener("click", (event) => {
    const link = link_at(event);
    if (finger && link && link !== shown) {
      event.preventDefault();
      show(link);
    } else if (link) hide();
    finger = false;
  });
  window.addEventListener("resize", hide);
});
