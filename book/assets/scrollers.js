// What scrolls sideways on a narrow screen can be reached by the Tab key and moved by the arrow keys.
// The theme does this for code, except in what is unfolded later, and for tables; here it is for the rest.
(() => {
  const watch = new ResizeObserver(entries => entries.forEach(({ target }) => {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }));
  const start = () => document
    .querySelectorAll("pre, .output:has(> .rnnlib-figure), .rnnlib-slider > div, div.math, mjx-container[display]")
    .forEach(element => watch.observe(element));
  addEventListener("load", () => (window.MathJax ? MathJax.startup.promise.then(start) : start()));
})();
