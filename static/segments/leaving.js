/* The page of a segment: a rule that was not saved is not lost by a click on a link, nor
   by a session that ended. */
(() => {
  "use strict";

  window.addEventListener("load", () => {
    const form = document.getElementById("segment_form");
    if (!form) return;

    const written = () => {
      const entries = [...new FormData(form)];
      return new URLSearchParams(entries.filter(([name]) => name !== "csrfmiddlewaretoken" && !name.includes(".opt."))).toString();
    };
    const before = written();
    const wasRefused = document.querySelector(".errornote") !== null;
    let isSaved = false;

    form.addEventListener("submit", () => { isSaved = true; });
    // Coming back by the browser's button.
    window.addEventListener("pageshow", () => { isSaved = false; });
    window.addEventListener("beforeunload", (event) => {
      if (!isSaved && (wasRefused || written() !== before)) event.preventDefault();
    });

    // Who logs in again in another tab gets another token, and goes on here with it.
    window.addEventListener("focus", () => {
      const token = document.cookie.match(/(?:^|;\s*)csrftoken=([^;]+)/)?.[1];
      if (!token) return;
      for (const input of document.querySelectorAll("input[name=csrfmiddlewaretoken]")) input.value = token;
    });
  });
})();
