/* Two machines to turn: one unit left to itself, and the memory of an LSTM. The mathematics is that of
   rnnlib.dynamics and rnnlib.lstm in double precision; tests/test_workbench.py holds it to rnnlib. */
"use strict";
(() => {
  // --- one unit, h_t = tanh(w h_{t-1} + b) ----------------------------------------------------

  const unit = (w, b, h) => Math.tanh(w * h + b);

  function orbit(w, b, h, steps) {
    const hs = [h];
    for (let t = 0; t < steps; t++) hs.push(unit(w, b, hs[t]));
    return hs;
  }

  const slope = (w, h) => w * (1 - h * h); // of the map at a fixed point h

  // A root between two points where f has opposite signs.
  function bisect(f, low, high) {
    const rising = f(high) > 0;
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      if (f(middle) > 0 === rising) high = middle; else low = middle;
    }
    return (low + high) / 2;
  }

  // In u = w h + b the fixed points are the roots of w tanh(u) + b - u, which turns at ±arcosh(√w).
  function fixedPoints(w, b) {
    const G = (u) => w * Math.tanh(u) + b - u, far = Math.abs(w) + Math.abs(b) + 1;
    if (w <= 1) return [Math.tanh(bisect(G, -far, far))];
    const turn = Math.acosh(Math.sqrt(w)), us = [];
    if (G(-turn) <= 0) us.push(bisect(G, -far - turn, -turn));
    if (G(-turn) < 0 && G(turn) > 0) us.push(bisect(G, -turn, turn));
    if (G(turn) >= 0) us.push(bisect(G, turn, far + turn));
    return us.map(Math.tanh);
  }

  // The two states between which it jumps for ever, or nothing where it comes to rest.
  function cycle(w, b) {
    if (w >= -1 || Math.abs(slope(w, fixedPoints(w, b)[0])) <= 1) return [];
    return orbit(w, b, 1, 2000).slice(-2).sort((x, y) => x - y);
  }

  // --- the memory of an LSTM with gates that a reader sets -------------------------------------

  // C_t = f C_{t-1} + i_t candidate_t, h_t = o tanh(C_t), and back: the last memory's gradient at each step.
  function remember(candidates, inputGates, f, o) {
    const C = [0], h = [];
    candidates.forEach((candidate, t) => {
      C.push(f * C[t] + inputGates[t] * candidate);
      h.push(o * Math.tanh(C[t + 1]));
    });
    const gradient = candidates.map(() => 1);
    for (let t = gradient.length - 2; t >= 0; t--) gradient[t] = f * gradient[t + 1];
    return { C: C.slice(1), h, gradient };
  }

  window.workbench = { orbit, slope, fixedPoints, cycle, remember }; // for the tests, and for the curious

  // --- pictures --------------------------------------------------------------------------------

  const WIDTH = 340, HEIGHT = 230, LEFT = 46, RIGHT = 8, TOP = 10, BOTTOM = 40;
  const STEPS = 40, WEIGHT = 3, WEIGHTS = 241; // steps of an orbit; the weights of the diagram, ± and how many

  function draw(svg, tag, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    svg.append(made);
    return made;
  }

  const written = (value) => String(value).replace("-", "−");

  // Empty axes; what comes back turns numbers into places.
  function axes(svg, x, y) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    const X = (v) => LEFT + (v - x.from) / (x.to - x.from) * (WIDTH - LEFT - RIGHT);
    const Y = (v) => HEIGHT - BOTTOM - (v - y.from) / (y.to - y.from) * (HEIGHT - TOP - BOTTOM);
    const frame = `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`;
    draw(svg, "path", { class: "workbench-axes", d: frame });
    for (const v of x.ticks) {
      draw(svg, "path", { class: "workbench-axes", d: `M${X(v)} ${HEIGHT - BOTTOM}v4` });
      draw(svg, "text", { x: X(v), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, written(v));
    }
    for (const v of y.ticks) {
      draw(svg, "path", { class: "workbench-axes", d: `M${LEFT} ${Y(v)}h-4` });
      draw(svg, "text", { x: LEFT - 8, y: Y(v) + 4, "text-anchor": "end" }, written(v));
    }
    draw(svg, "text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, x.name);
    const turned = `rotate(-90) translate(${-(TOP + HEIGHT - BOTTOM) / 2} 12)`;
    draw(svg, "text", { transform: turned, "text-anchor": "middle" }, y.name);
    return { X, Y };
  }

  const line = (places) => "M" + places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const dots = (places) => places.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("");

  const STATE = { from: -1, to: 1, ticks: [-1, 0, 1] };

  // --- the page --------------------------------------------------------------------------------

  const three = (value) => written(value.toFixed(3)).replace(/^−0\.000$/, "0.000");

  // The form's numbers, shown beside their sliders.
  function numbers(form) {
    const values = {};
    for (const slider of form.querySelectorAll("input[type=range]")) {
      values[slider.name] = Number(slider.value);
      form.querySelector(`output[name=${slider.name}_shown]`).textContent =
        written(Number(slider.value).toFixed(2));
    }
    return values;
  }

  function oneUnit(form) {
    const [web, time, diagram] = form.querySelectorAll("svg");
    let place; // of the diagram, for the mouse

    function show() {
      const { w, b, h_0 } = numbers(form), hs = orbit(w, b, h_0, STEPS);

      let at = axes(web, { ...STATE, name: "state before" }, { ...STATE, name: "state after" });
      const grid = Array.from({ length: 81 }, (_, i) => i / 40 - 1);
      draw(web, "path", { class: "workbench-faint", d: line([[at.X(-1), at.Y(-1)], [at.X(1), at.Y(1)]]) });
      draw(web, "path", { class: "workbench-second", d: line(grid.map((h) => [at.X(h), at.Y(unit(w, b, h))])) });
      const stairs = hs.slice(1).flatMap((h, t) => [[at.X(hs[t]), at.Y(h)], [at.X(h), at.Y(h)]]);
      draw(web, "path", { class: "workbench-first", d: line([[at.X(h_0), at.Y(h_0)], ...stairs]) });

      at = axes(time, { from: 0, to: STEPS, ticks: [0, 10, 20, 30, 40], name: "step" }, { ...STATE, name: "state" });
      const places = hs.map((h, t) => [at.X(t), at.Y(h)]);
      draw(time, "path", { class: "workbench-first", d: line(places) });
      draw(time, "path", { class: "workbench-dots workbench-first", d: dots(places) });

      place = axes(diagram, { from: -WEIGHT, to: WEIGHT, ticks: [-3, -2, -1, 0, 1, 2, 3], name: "weight w" },
        { ...STATE, name: "where it ends" });
      const attracting = [], repelling = [];
      for (let i = 0; i < WEIGHTS; i++) {
        const v = WEIGHT * (2 * i / (WEIGHTS - 1) - 1);
        for (const h of fixedPoints(v, b))
          (Math.abs(slope(v, h)) < 1 ? attracting : repelling).push([place.X(v), place.Y(h)]);
        attracting.push(...cycle(v, b).map((h) => [place.X(v), place.Y(h)]));
      }
      draw(diagram, "path", { class: "workbench-dots workbench-faint", d: dots(repelling) });
      draw(diagram, "path", { class: "workbench-dots workbench-first", d: dots(attracting) });
      draw(diagram, "path", { class: "workbench-second", d: `M${place.X(w)} ${TOP}V${HEIGHT - BOTTOM}` });

      const points = fixedPoints(w, b).map((h) => `${three(h)} with slope ${three(slope(w, h))}, which `
        + (Math.abs(slope(w, h)) < 1 ? "attracts" : Math.abs(slope(w, h)) > 1 ? "repels" : "does neither"));
      const [last, next] = orbit(w, b, h_0, 2001).slice(-2);
      const end = Math.abs(next - last) < 1e-6 ? `ends at ${three(next)}`
        : Math.abs(next - last) < 1e-2 ? `is near ${three(next)} after 2001 steps, and still moves`
        : `jumps between ${three(Math.min(last, next))} and ${three(Math.max(last, next))}`;
      form.querySelector("[role=status]").textContent =
        `Fixed points: ${points.join("; ")}. This orbit ${end}.`;
    }

    diagram.addEventListener("click", (event) => {
      const box = diagram.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * WIDTH;
      form.elements.w.value = WEIGHT * (2 * (x - LEFT) / (WIDTH - LEFT - RIGHT) - 1);
      show();
    });
    return show;
  }

  function memoryCell(form) {
    const { candidates, marks } = JSON.parse(form.dataset.run), T = candidates.length;
    const [inputs, memory, back] = form.querySelectorAll("svg");
    const time = { from: 0, to: T, ticks: [0, 10, 20, 30, 40], name: "step" };

    return () => {
      const { f, i_mark, i_rest, o } = numbers(form);
      const gates = candidates.map((_, t) => (marks.includes(t) ? i_mark : i_rest));
      const { C, h, gradient } = remember(candidates, gates, f, o);
      const reach = Math.max(1, Math.ceil(Math.max(...C.map(Math.abs))));

      let at = axes(inputs, time, { ...STATE, name: "candidate" });
      const bars = (values) => values.map((v, t) => `M${at.X(t + 1).toFixed(1)} ${at.Y(0)}V${at.Y(v).toFixed(1)}`).join("");
      draw(inputs, "path", { class: "workbench-bars workbench-faint", d: bars(candidates) });
      draw(inputs, "path", { class: "workbench-bars workbench-first", d: bars(candidates.map((c, t) => gates[t] * c)) });

      at = axes(memory, time, { from: -reach, to: reach, ticks: [-reach, 0, reach], name: "memory and state" });
      draw(memory, "path", { class: "workbench-first", d: line(C.map((v, t) => [at.X(t + 1), at.Y(v)])) });
      draw(memory, "path", { class: "workbench-second workbench-dashed", d: line(h.map((v, t) => [at.X(t + 1), at.Y(v)])) });

      at = axes(back, time, { from: 0, to: 1, ticks: [0, 0.5, 1], name: "gradient" });
      draw(back, "path", { class: "workbench-bars workbench-second", d: bars(gradient) });

      const lag = T - 1 - marks[0];
      form.querySelector("[role=status]").textContent =
        `After ${T} steps the memory is ${three(C[T - 1])} and the state ${three(h[T - 1])}. Of what the first `
        + `mark wrote, ${lag} steps ago, the part ${three(f ** lag)} is left, and the gradient is the same number.`;
    };
  }

  for (const [name, machine] of Object.entries({ "one-unit": oneUnit, "memory-cell": memoryCell }))
    for (const root of document.querySelectorAll(`.workbench.${name}`)) {
      const form = root.querySelector("form"), show = machine(form);
      form.addEventListener("input", show);
      form.addEventListener("reset", () => setTimeout(show)); // the sliders go back after the event
      form.addEventListener("submit", (event) => event.preventDefault());
      root.classList.add("hands-on-lives");
      form.hidden = false;
      show();
    }
})();
