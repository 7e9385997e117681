// Buttons that copy: <button data-copy="#id of what is copied">.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.querySelector(button.dataset.copy);
  if (!source) return;
  const label = button.querySelector("[data-copy-label]") || button;
  const before = label.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent.trim());
    label.textContent = "Copied";
  } catch {
    // No clipboard without HTTPS: mark the text, so that Ctrl-C takes it.
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    label.textContent = "Press Ctrl-C";
  }
  setTimeout(() => { label.textContent = before; }, 2000);
});

// Parts of pages, fetched by htmx: whoever is logged out meanwhile is told so, and what
// they wrote stays. A part that says so itself carries data-tells-logout.
(() => {
  "use strict";

  window.LOGGED_OUT = "You are logged out. Log in again in another tab, then go on here: nothing is lost.";
  // The login page came instead of the part that was asked for.
  window.isLoggedOut = ({ xhr }) => /\/login\/$/.test(new URL(xhr.responseURL || "/", window.location.href).pathname);

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (window.isLoggedOut(event.detail)) Object.assign(event.detail, { shouldSwap: false, isError: true });
  }, true);

  document.addEventListener("htmx:responseError", (event) => {
    if (!window.isLoggedOut(event.detail) || event.target.closest?.("[data-tells-logout]")) return;
    if (document.querySelector(".sc-logged-out")) return;
    const note = document.createElement("p");
    note.className = "sc-logged-out";
    note.setAttribute("role", "alert");
    note.textContent = window.LOGGED_OUT;
    document.body.append(note);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful) document.querySelector(".sc-logged-out")?.remove();
  });

  // Who logs in again in another tab gets another token, and goes on here with it.
  document.addEventListener("htmx:configRequest", ({ detail }) => {
    const token = document.cookie.match(/(?:^|;\s*)csrftoken=([^;]+)/)?.[1];
    if (!token || detail.verb === "get") return;
    detail.headers["X-CSRFToken"] = token;
    if (detail.parameters.csrfmiddlewaretoken) detail.parameters.csrfmiddlewaretoken = token;
  });
})();
