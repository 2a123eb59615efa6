// What is wider than a narrow screen. A figure of several panels sets them one below the other; what still
// scrolls sideways fades out on the side where there is more, and is reached by the Tab key and moved by the
// arrow keys. The theme does the latter for code, except in what is unfolded later, and for tables.
(() => {
  const SMALLEST = 0.74; // the letters of a figure are drawn in 13.3 pixels, and shown in 9.9 at least
  const PIXELS = 4 / 3; // in a point, the measure of the drawing

  // --- panels ----------------------------------------------------------------------------------

  // The box of all that a part of a figure shows, in the units of the drawing. What is clipped lies in its axes.
  function box(part) {
    const svg = part.ownerSVGElement, place = svg.getScreenCTM().inverse();
    const all = [...part.querySelectorAll("path, use, image, text")];
    const boxes = all.filter(e => !e.closest("[clip-path]")).map(e => e.getBoundingClientRect())
      .filter(b => b.width || b.height)
      .map(b => [b.left * place.a + place.e, b.top * place.d + place.f, b.width * place.a, b.height * place.d]);
    const clips = new Set([...part.querySelectorAll("[clip-path]")].map(e => e.getAttribute("clip-path").slice(5, -1)));
    for (const id of clips) {
      const rect = document.getElementById(id)?.querySelector("rect");
      if (rect) boxes.push(["x", "y", "width", "height"].map(name => Number(rect.getAttribute(name))));
    }
    return {
      left: Math.min(...boxes.map(([x]) => x)), right: Math.max(...boxes.map(([x, , width]) => x + width)),
      top: Math.min(...boxes.map(([, y]) => y)), bottom: Math.max(...boxes.map(([, y, , height]) => y + height)),
      parts: [part],
    };
  }

  // The frame of axes, their first path, and the group of the numbers on its left; a part may have none.
  function scale(part) {
    const axes = part.querySelector(":scope > g > path")?.parentElement;
    if (!axes) return {};
    const frame = box(axes);
    const numbers = [...part.children].find(group => group.querySelector("use") && group !== axes
      && box(group).right < frame.left + 6 && box(group).left < frame.left - 5);
    return { frame, numbers, left: numbers && box(numbers).left };
  }

  // Boxes that share a stretch from one side to the other become one; so does a narrow one with the one before.
  function apart(boxes, from, to, narrow) {
    const found = [];
    for (const next of boxes.sort((a, b) => a[from] - b[from])) {
      const last = found.at(-1);
      if (last && (next[from] < last[to] || next[to] - next[from] < narrow)) {
        for (const side of ["left", "top"]) last[side] = Math.min(last[side], next[side]);
        for (const side of ["right", "bottom"]) last[side] = Math.max(last[side], next[side]);
        last.parts.push(...next.parts);
        last.inner.push(next);
      } else found.push({ ...next, parts: [...next.parts], inner: [next] });
    }
    return found;
  }

  // The panels: rows of { top, bottom, panels }, and in each from left to right.
  function grid(svg, width, height) {
    const hidden = [...svg.querySelectorAll("[data-at]")].map(e => [e, e.style.display]); // by a slider
    hidden.forEach(([e]) => { e.style.display = ""; });
    const boxes = [...svg.querySelector(":scope > g").children].slice(1).map(box).filter(b => b.left < b.right);
    const scales = new Map(boxes.map(b => [b.parts[0], scale(b.parts[0])]));
    hidden.forEach(([e, display]) => { e.style.display = display; });
    const rows = apart(boxes, "top", "bottom", 0);
    return rows.map((row, i) => {
      const panels = apart(row.inner, "left", "right", width / 6); // a narrow one is its neighbour's scale of colours
      const first = scales.get(panels[0].parts[0]);
      for (const panel of panels.slice(1)) {
        const own = scales.get(panel.parts[0]);
        if (!first.numbers || !own.frame || own.numbers) continue;
        // It shares the numbers of the first one: where it begins a line it needs them again.
        panel.shift = own.frame.left - first.frame.left;
        panel.numbers = first.numbers;
        panel.begin = Math.min(panel.left, first.left + panel.shift);
      }
      return {
        top: i ? (rows[i - 1].bottom + row.top) / 2 : 0,
        bottom: i < rows.length - 1 ? (row.bottom + rows[i + 1].top) / 2 : height,
        panels,
      };
    });
  }

  // As many panels side by side as the width has room for: { left, right, top, bottom, y, parts } of each line.
  function lines(rows, room) {
    const found = [];
    for (const { top, bottom, panels } of rows) {
      let line = null;
      for (const panel of panels) {
        if (line && panel.right - line.left <= room) {
          line.right = panel.right;
          line.parts.push(...panel.parts);
        } else {
          const left = panel.begin ?? panel.left;
          line = { left, right: panel.right, top, y: found.height ?? 0, parts: [...panel.parts], begins: panel };
          found.push(line);
          found.height = line.y + bottom - top;
        }
      }
    }
    return found;
  }

  // Set the panels of a figure in as many lines as the width asks for, or side by side again.
  function arrange(svg, width) {
    const view = svg.viewBox.baseVal;
    const figure = svg.figure ??= { width: view.width, height: view.height, view: svg.getAttribute("viewBox"), style: svg.getAttribute("style") };
    const room = width / PIXELS / SMALLEST, rim = 2;
    const found = figure.width > room ? lines(figure.rows ??= grid(svg, figure.width, figure.height), room - 2 * rim) : [];
    const across = Math.max(...found.map(line => line.right - line.left)) + 2 * rim;
    const stacked = found.length > (figure.rows?.length ?? 0) && across < 0.8 * figure.width;
    const drawn = stacked ? across : figure.width;
    figure.rows?.forEach(row => row.panels.forEach(panel => panel.parts.forEach(part => part.removeAttribute("transform"))));
    svg.querySelectorAll(".rnnlib-again").forEach(e => e.remove());
    if (stacked) for (const { left, top, y, parts, begins } of found) {
      parts.forEach(part => part.setAttribute("transform", `translate(${rim - left} ${y - top})`));
      if (!begins.numbers) continue;
      const again = begins.numbers.cloneNode(true);
      again.setAttribute("class", "rnnlib-again");
      again.setAttribute("transform", `translate(${begins.shift} 0)`);
      begins.parts[0].append(again);
    }
    svg.setAttribute("viewBox", stacked ? `0 0 ${across} ${found.height}` : figure.view);
    svg.setAttribute("style", figure.style);
    svg.style.minWidth = `${Math.floor(drawn * PIXELS * SMALLEST)}px`;
    if (stacked) svg.style.maxWidth = `${Math.round(drawn * PIXELS)}px`;
    svg.classList.toggle("rnnlib-stacked", stacked);
  }

  // --- what scrolls ----------------------------------------------------------------------------

  function look(scroller) {
    const more = scroller.scrollWidth - scroller.clientWidth, at = scroller.scrollLeft;
    scroller.classList.toggle("more-left", more > 1 && at > 1);
    scroller.classList.toggle("more-right", more > 1 && at < more - 1);
    return more > 0;
  }

  const watch = new ResizeObserver(entries => entries.forEach(({ target, contentRect }) => {
    const svg = target.querySelector(":scope > svg.rnnlib-figure");
    if (svg && contentRect.width) arrange(svg, contentRect.width); // without the padding
    const scrolls = look(target);
    if (target.matches(".pst-scrollable-table-container")) return; // the theme's own
    if (scrolls) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }));
  const start = () => document
    .querySelectorAll("pre, .output:has(> .rnnlib-figure), .rnnlib-slider > div, div.math, mjx-container[display], .pst-scrollable-table-container")
    .forEach(element => {
      watch.observe(element);
      element.addEventListener("scroll", () => look(element), { passive: true });
    });
  addEventListener("load", () => (window.MathJax ? MathJax.startup.promise.then(start) : start()));
})();
