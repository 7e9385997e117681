// The upload says at once what is too large; the plan shows what its choices need.
document.addEventListener("submit", (event) => {
  const form = event.target.closest(".si-upload");
  if (!form) return;
  const file = form.elements.file.files[0];
  const error = form.querySelector("[data-error]");
  if (file && file.size > Number(form.dataset.most)) {
    event.preventDefault();
    error.textContent = form.dataset.tooLarge;
    error.hidden = false;
    return;
  }
  const button = form.querySelector("[data-busy]");
  button.lastElementChild.textContent = button.dataset.busy;
  button.disabled = true;
});

// Back by the browser's button: the form can be sent again.
window.addEventListener("pageshow", (event) => {
  const button = document.querySelector(".si-upload [data-busy]");
  if (event.persisted && button) window.location.reload();
});

document.addEventListener("change", (event) => {
  const plan = event.target.closest(".si-plan");
  if (!plan) return;
  // Another delimiter or encoding gives other columns: the page is made anew.
  if (event.target.matches("[data-reread]")) {
    plan.submit();
    return;
  }
  if (!event.target.name.startsWith("target-")) return;
  const number = event.target.name.slice("target-".length);
  const isOwn = event.target.value === "own";
  const code = plan.elements[`code-${number}`];
  code.hidden = plan.elements[`type-${number}`].hidden = !isOwn;
  event.target.closest("tr").classList.toggle("si-left-out", !event.target.value);
  if (isOwn && !code.value) {
    const name = event.target.closest("tr").querySelector("b").textContent;
    code.value = name.toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_+|_+$/g, "");
    code.focus();
  }
});
