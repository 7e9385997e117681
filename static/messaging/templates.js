// A click on a variable puts it where the cursor was last.
let lastField = null;

document.addEventListener("focusin", (event) => {
  if (event.target.matches("[data-takes-variables]")) lastField = event.target;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-variable]");
  if (!button) return;
  const field = lastField || document.querySelector("textarea[data-takes-variables]");
  if (!field) return;
  const text = `{{ ${button.dataset.variable} }}`;
  field.focus();
  field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
});
