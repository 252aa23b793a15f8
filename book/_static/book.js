// A formula wider than the column scrolls; then, and only then, the keyboard can reach it.
function focusable(box, wide) {
  if (wide) box.setAttribute("tabindex", "0");
  else box.removeAttribute("tabindex");
}

function markWideFormulas() {
  for (const box of document.querySelectorAll("main div.math mjx-container")) {
    focusable(box, box.scrollWidth > box.clientWidth);
  }
  for (const box of document.querySelectorAll("main span.math")) {
    const width = box.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
    const wide = width > box.parentElement.clientWidth;
    box.classList.toggle("wide", wide);
    focusable(box, wide);
  }
}

window.addEventListener("load", async () => {
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
  markWideFormulas();
  window.addEventListener("resize", markWideFormulas);
});
