/* A character model that writes in the page. The mathematics is that of rnnlib.gru in double precision, and
   tests/test_sampler.py holds it to rnnlib. It needs weights.js, no library and no network. */
"use strict";
(() => {
  const { alphabet, parameters } = window.characterModel;

  // --- the mathematics: one example, x the place of a character in the alphabet ---------------

  const matrix = ({ scales, int8 }) => {
    const q = Int8Array.from(atob(int8), (byte) => byte.charCodeAt(0));
    const columns = q.length / scales.length;
    return scales.map((scale, i) =>
      Float64Array.from(q.subarray(i * columns, (i + 1) * columns), (entry) => scale * entry));
  };
  const P = {};
  for (const [name, values] of Object.entries(parameters))
    P[name] = Array.isArray(values) ? values : matrix(values);
  const H = P.b.length;

  const logistic = (a) => 1 / (1 + Math.exp(-a));

  // W [h, x] + b. A one-hot x picks one column.
  const preactivation = (W, b, h, x) => Float64Array.from(W, (row, i) => {
    let a = b[i] + row[H + x];
    for (let j = 0; j < H; j++) a += row[j] * h[j];
    return a;
  });

  function step(h, x) {
    const z = preactivation(P.W_z, P.b_z, h, x).map(logistic);
    const r = preactivation(P.W_r, P.b_r, h, x).map(logistic);
    const candidate = preactivation(P.W, P.b, h.map((h_j, j) => r[j] * h_j), x).map(Math.tanh);
    return { h: h.map((h_j, j) => (1 - z[j]) * h_j + z[j] * candidate[j]), z, r };
  }

  function probabilities(h, temperature, top) {
    const a = P.W_hy.map((row, k) => row.reduce((sum, w, j) => sum + w * h[j], P.b_y[k]) / temperature);
    const order = [...a.keys()].sort((k, l) => a[l] - a[k]);
    const kept = new Set(order.slice(0, top));
    const e = a.map((a_k, k) => (kept.has(k) ? Math.exp(a_k - a[order[0]]) : 0));
    const sum = e.reduce((x, y) => x + y, 0);
    return e.map((e_k) => e_k / sum);
  }

  // The first character at which the sum of the probabilities exceeds u.
  function draw(p, u) {
    let sum = 0, drawn = 0;
    for (let k = 0; k < p.length; k++) {
      if (p[k] > 0) drawn = k; // rounding may leave the whole sum below u: then it is the last possible one
      sum += p[k];
      if (u < sum) break;
    }
    return drawn;
  }

  // The generator mulberry32: numbers in [0, 1) that the seed, from 0 to 2³² - 1, decides.
  const generator = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };

  // A line end comes before every prompt: the network needs an input before it can expect anything.
  function read(text) {
    const steps = [step(new Float64Array(H), alphabet.indexOf("\n"))];
    for (const character of text) steps.push(step(steps.at(-1).h, alphabet.indexOf(character)));
    return steps;
  }

  window.characterSampler = { read, probabilities, draw, generator }; // for the tests, and for the curious

  // --- the page -------------------------------------------------------------------------------

  const AT_ONCE = 1000, ROOM = 4000, PAUSE = 40; // characters for a press and in all; milliseconds between two
  const NAMES = { "\n": "line end", " ": "space" };
  const nameOf = (k) => NAMES[alphabet[k]] ?? alphabet[k];
  const percent = (p) => (p > 0 && p < 0.0005 ? "< 0.1" : (100 * p).toFixed(1)) + " %";
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  // Blue below zero, vermilion above; pale enough behind text to read it on a light and on a dark page.
  const tint = (value, strongest) =>
    `rgb(${value < 0 ? "0 114 178" : "213 94 0"} / ${Math.round(100 * strongest * Math.abs(value))}%)`;
  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...children);
    return made;
  };

  function enliven(root) {
    const form = root.querySelector("form"), control = form.elements;
    const part = (name) => form.querySelector(`.sampler-${name}`);
    const ink = part("ink"), plain = part("plain"), bars = part("bars"), cells = part("cells");
    let steps, random, written, timer = 0;

    const now = () => steps.at(-1);
    const lookedAt = () => Number(control.unit.value) - 1;
    const distribution = () =>
      probabilities(now().h, Number(control.temperature.value), Number(control.top.value));
    const tell = (sentence) => { part("message").textContent = sentence; };

    function append(k, className) {
      steps.push(step(now().h, k));
      const character = element("span", className, alphabet[k]);
      character.style.backgroundColor = tint(now().h[lookedAt()], 0.45);
      ink.append(character);
      plain.firstChild.data += alphabet[k];
    }

    function write() {
      const p = distribution(), u = random(), k = draw(p, u);
      append(k, "");
      written += 1;
      return `Drawn with u = ${u.toFixed(4)}: ${nameOf(k)}, which had ${percent(p[k])}.`;
    }

    function showUnit() {
      const j = lookedAt(), { h, z, r } = now();
      const numbers = `h = ${signed(h[j])}, update gate z = ${z[j].toFixed(3)}, reset gate r = ${r[j].toFixed(3)}`;
      part("number").textContent = j + 1;
      part("numbers").textContent = numbers;
      control.unit.setAttribute("aria-valuetext", `${j + 1}: ${numbers}`);
      [...cells.children].forEach((cell, i) => cell.classList.toggle("sampler-looked-at", i === j));
    }

    function show() {
      part("degree").textContent = Number(control.temperature.value).toFixed(2);
      const p = distribution(), order = [...p.keys()].sort((k, l) => p[l] - p[k]);
      [...bars.children].forEach((bar, i) => {
        const [name, length, share] = bar.children, k = order[i];
        name.textContent = nameOf(k);
        length.firstChild.style.width = `${100 * p[k]}%`;
        share.textContent = percent(p[k]);
      });
      [...cells.children].forEach((cell, j) => {
        cell.style.backgroundColor = tint(now().h[j], 1);
        cell.title = `unit ${j + 1}: ${signed(now().h[j])}`;
      });
      showUnit();
      part("text").scrollTop = part("text").scrollHeight;
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      control.write.textContent = "Write";
    }

    function pause() {
      stop();
      tell(written < ROOM ? `Paused after ${written} characters.` : "The sheet is full. Start again for a new one.");
    }

    function start() {
      stop();
      const prompt = [...control.prompt.value];
      const unknown = [...new Set(prompt.filter((character) => !alphabet.includes(character)))];
      tell(unknown.length === 0 ? "" : `Left out: ${unknown.join(" ")} – the network has never seen such a character. `
        + "It knows letters from A to Z, the digits 1 to 9, the space, the line end and "
        + [...alphabet].filter((character) => /[^\w\s]/.test(character)).join(" "));
      steps = read("");
      random = generator(Number(control.seed.value));
      written = 0;
      ink.replaceChildren();
      plain.textContent = " "; // never empty, so that there is a text node to add to
      for (const character of prompt)
        if (!unknown.includes(character)) append(alphabet.indexOf(character), "sampler-prompt");
      show();
    }

    control.step.addEventListener("click", () => {
      stop();
      if (written >= ROOM) return pause();
      tell(write());
      show();
    });
    control.write.addEventListener("click", () => {
      if (timer || written >= ROOM) return pause();
      const end = Math.min(written + AT_ONCE, ROOM);
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
        while (written < end) write(); // nothing moves: the text is there at once
        show();
        return pause();
      }
      tell("Writing.");
      control.write.textContent = "Stop";
      timer = setInterval(() => {
        write();
        show();
        if (written >= end) pause();
      }, PAUSE);
    });
    control.again.addEventListener("click", start);
    control.prompt.addEventListener("input", start);
    control.seed.addEventListener("input", start);
    control.temperature.addEventListener("input", show);
    control.top.addEventListener("change", show);
    control.unit.addEventListener("input", () => {
      [...ink.children].forEach((character, t) => { // the first step read the line end before the text
        character.style.backgroundColor = tint(steps[t + 1].h[lookedAt()], 0.45);
      });
      showUnit();
    });
    cells.addEventListener("click", (event) => {
      const j = [...cells.children].indexOf(event.target);
      if (j < 0) return; // between two cells
      control.unit.value = j + 1;
      control.unit.dispatchEvent(new Event("input"));
    });
    form.addEventListener("submit", (event) => event.preventDefault());

    for (let i = 0; i < 8; i++)
      bars.append(element("li", "", element("span", "sampler-name"),
        element("span", "sampler-length", element("span", "")), element("span", "sampler-share")));
    for (let j = 0; j < H; j++) cells.append(element("span", ""));
    root.classList.add("hands-on-lives");
    form.hidden = false;
    start();
  }

  document.querySelectorAll(".character-sampler").forEach(enliven);
})();
