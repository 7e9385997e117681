/* The page of a segment: a rule that was not saved is not lost by a click on a link, nor
   by a session that ended. */
(() => {
  "use strict";

  const LOST = "This was not saved: there is no connection. Nothing is lost; try again.";
  const LOGGED_OUT = "This was not saved: you are logged out. Log in again in another tab, then save here: nothing is lost.";

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
    let isAsking = false;

    // What a login page receives is lost. So the server is asked first, while all is still here.
    async function refusal() {
      try {
        const { door } = document.querySelector("[data-door]").dataset;
        const { type } = await fetch(door, { redirect: "manual" });
        return type === "opaqueredirect" ? LOGGED_OUT : "";
      } catch {
        return LOST;
      }
    }
    const said = document.createElement("p");
    said.className = "sc-note sd-note-bad";
    said.setAttribute("role", "alert");
    function say(words) {
      said.textContent = words;
      form.prepend(said);
      said.scrollIntoView({ block: "center" });
    }

    form.addEventListener("submit", async (event) => {
      if (isSaved) return;
      event.preventDefault();
      if (isAsking) return;
      isAsking = true;
      const why = await refusal();
      isAsking = false;
      if (why) return say(why);
      isSaved = true;
      form.requestSubmit(event.submitter);
    });
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
