(() => {
  "use strict";
  const find = (name) => document.getElementById(name);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => {
    if (!each.open) { each.open = true; each.dataset.folded = ""; }
  }));
  addEventListener("afterprint", () => document.querySelectorAll("details[data-folded]").forEach((each) => {
    each.open = false; delete each.dataset.folded;
  }));
  const slider = find("review-slider");
  if (!slider) return;
  const all = JSON.parse(find("review-steps").textContent);
  const cursor = find("review-cursor");
  const percent = (share) => (100 * share).toFixed(1) + " %";
  const number = (n) => n.toString().replace(/\B(?=(\d{3})+$)/g, ",");
  const left = Number(cursor.dataset.left), right = Number(cursor.dataset.right);
  const show = () => {
    const [threshold, accepted, errors, low, high] = all.steps[slider.value];
    const reviewed = all.n - accepted;
    const workload = `${number(reviewed)} of ${number(all.n)} (${percent(reviewed / all.n)})`;
    const error = `${number(errors)} of ${number(accepted)} (${percent(errors / accepted)}) [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
    const caught = all.errors ? `${number(all.errors - errors)} of ${number(all.errors)} (${percent((all.errors - errors) / all.errors)})` : "there are none";
    find("review-threshold").textContent = threshold;
    find("review-workload").textContent = workload;
    find("review-error").textContent = error;
    find("review-caught").textContent = caught;
    slider.setAttribute("aria-valuetext", `reviewed ${workload}, wrong among the accepted ${error}`);
    const x = left + (right - left) * accepted / all.n;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  };
  slider.addEventListener("input", show);
  show();
})();
