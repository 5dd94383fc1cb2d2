"use strict";
// Show the values under the pointer, or at the step chosen with the arrow keys.
for (const chart of document.querySelectorAll("svg.chart")) {
  const [low, high, left, right] = chart.dataset.steps.split(" ").map(Number);
  const cursor = chart.querySelector(".cursor");
  const figure = chart.closest("figure");
  let lines = null, tip = null, at = null;

  const read = () => [...chart.querySelectorAll("[data-x]")].map((path) => ({
    name: path.dataset.name,
    steps: path.dataset.x.split(" ").map(Number),
    values: path.dataset.y.split(" ").map((text) => (text === "" ? NaN : Number(text))),
  }));
  const format = (value) => {
    if (Number.isNaN(value)) return "–";
    if (chart.dataset.scale === "share") return (100 * value).toFixed(1) + " %";
    return Math.abs(value) >= 1e-3 || value === 0 ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : value.toExponential(2);
  };
  const nearest = (steps, step) => {
    let first = 0, last = steps.length - 1;
    while (last - first > 1) {
      const middle = (first + last) >> 1;
      if (steps[middle] <= step) first = middle; else last = middle;
    }
    return step - steps[first] <= steps[last] - step ? first : last;
  };
  const hide = () => {
    if (tip) tip.hidden = true;
    cursor.classList.remove("on");
  };
  const show = (step) => {
    lines ??= read();
    if (!tip) {
      tip = document.createElement("div");
      tip.className = "tip";
      tip.setAttribute("role", "status");
      figure.append(tip);
    }
    const longest = lines.reduce((one, other) => (other.steps.length > one.steps.length ? other : one));
    at = longest.steps[nearest(longest.steps, step)];
    const within = lines.filter(({ steps }) => steps[0] <= at && at <= steps.at(-1));
    tip.textContent = [`step ${at.toLocaleString("en")}`, ...within.map(({ name, steps, values }) => `${name} ${format(values[nearest(steps, at)])}`)].join("\n");
    const x = left + ((right - left) * (at - low)) / (high - low);
    cursor.setAttribute("transform", `translate(${x} 0)`);
    cursor.classList.add("on");
    tip.hidden = false;
    const box = chart.getBoundingClientRect(), outer = figure.getBoundingClientRect();
    const across = box.left - outer.left + (x * box.width) / chart.viewBox.baseVal.width;
    tip.style.left = `${across > outer.width / 2 ? Math.max(4, across - tip.offsetWidth - 10) : across + 10}px`;
    tip.style.top = `${box.top - outer.top + 8}px`;
  };

  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) * chart.viewBox.baseVal.width) / box.width;
    show(low + ((Math.min(right, Math.max(left, x)) - left) * (high - low)) / (right - left));
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!turn) return;
    event.preventDefault();
    lines ??= read();
    const { steps } = lines.reduce((one, other) => (other.steps.length > one.steps.length ? other : one));
    const index = at === null ? (turn > 0 ? 0 : steps.length - 1) : nearest(steps, at) + turn;
    show(steps[Math.min(steps.length - 1, Math.max(0, index))]);
  });
}
