/* The drawing of a campaign: panels, unsaved input, zoom. Pages work on the server. */

(() => {
  "use strict";

  const UNSAVED = "What you wrote in the panel is not saved yet. Leave it?";
  const ZOOM = "campaigns.zoom";

  const workspace = () => document.querySelector(".cp-workspace");
  const panel = () => document.getElementById("cp-panel");
  const scroller = () => document.querySelector(".cp-scroll");

  /* Unsaved input ------------------------------------------------------------- */

  let leaving = false;

  const dirtyForm = () => document.querySelector(".cp-form.cp-dirty");
  const mayLeave = () => !dirtyForm() || window.confirm(UNSAVED);

  const touched = (event) => {
    const form = event.target.closest?.(".cp-form");
    // The picker for templates fetches; it is no input of the step.
    if (form && event.isTrusted && !event.target.dataset.fetch && !("notInput" in event.target.dataset)) form.classList.add("cp-dirty");
  };
  document.addEventListener("input", touched);
  document.addEventListener("change", touched);
  for (const change of ["cp:touched", "builder:changed"]) {
    document.addEventListener(change, (event) => event.target.closest(".cp-form")?.classList.add("cp-dirty"));
  }

  window.addEventListener("beforeunload", (event) => {
    if (dirtyForm() && !leaving) event.preventDefault();
  });

  // Anything that would put another panel, or another picture, in the place of this one.
  document.addEventListener("htmx:confirm", (event) => {
    const form = dirtyForm();
    if (!form || event.detail.elt === form) return;
    const target = event.detail.target;
    if (target && (target.id === "cp-panel" || target.id === "cp-workspace") && !window.confirm(UNSAVED)) {
      event.preventDefault();
    }
  });

  /* Swaps --------------------------------------------------------------------- */

  // A refusal comes with a status of its own, and with the page to show.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const html = event.detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/html");
    if (html && [404, 409, 422].includes(event.detail.xhr.status) && event.detail.serverResponse.includes('id="cp-')) {
      event.detail.shouldSwap = true;
      event.detail.isError = false;
    }
  });

  document.addEventListener("htmx:responseError", ({ detail }) => {
    const isSaid = detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/plain");
    const sentence = isLoggedOut(detail) ? LOGGED_OUT
      : isSaid ? detail.xhr.responseText
      : detail.xhr.status === 403 ? "You may not do this, or you are logged out. Log in in another tab, then try again; what you wrote is still here."
      : "The server did not do it. Try again; what you wrote is still here.";
    tell(sentence);
  });
  document.addEventListener("htmx:sendError", () => tell("The server cannot be reached. Try again; what you wrote is still here."));

  function tell(sentence) {
    const body = document.querySelector("#cp-panel .cp-panel-body") ?? document.getElementById("cp-notes");
    if (!body) return;
    body.querySelector(".cp-told")?.remove();
    const note = document.createElement("div");
    note.className = "cp-note cp-error cp-told";
    note.setAttribute("role", "alert");
    note.textContent = sentence;
    body.prepend(note);
  }

  const frames = () => [...document.querySelectorAll("#cp-report .cp-table-frame")];
  let place = null, cameFrom = {}, opened = [], scrolled = [];
  document.addEventListener("htmx:beforeSwap", () => {
    const box = scroller();
    place = box && [box.scrollLeft, box.scrollTop];
    cameFrom = { ...panel()?.dataset };
    opened = [...document.querySelectorAll("#cp-report details[open]")].map((one) => one.id);
    scrolled = frames().map((one) => one.scrollLeft);
  });

  // The report follows what happens, and stays as it was looked at.
  document.addEventListener("htmx:afterSwap", () => {
    if (!document.getElementById("cp-report")) return;
    arrange();
    const box = scroller();
    if (box && place) [box.scrollLeft, box.scrollTop] = place;
    opened.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    frames().forEach((one, i) => { one.scrollLeft = scrolled[i] ?? 0; });
  });

  document.addEventListener("htmx:afterSettle", (event) => {
    const id = event.detail.target?.id;
    if (id !== "cp-panel" && id !== "cp-workspace" && event.detail.elt?.id !== "cp-panel" && event.detail.elt?.id !== "cp-workspace") return;
    arrange();
    const box = scroller();
    if (box && place) [box.scrollLeft, box.scrollTop] = place;
    const wrong = panel()?.querySelector("[role=alert]");
    if (wrong) {
      wrong.tabIndex = -1;
      (panel().querySelector("[aria-invalid=true]") ?? wrong).focus({ preventScroll: true });
      wrong.scrollIntoView({ block: "nearest" });
    } else if (panel()?.children.length) panel().querySelector("h2")?.focus({ preventScroll: true });
    else if (document.activeElement === document.body) {
      const pencil = cameFrom.kind === "name" ? document.querySelector("#cp-headline .cp-close") : null;
      (pencil ?? boxOf(cameFrom) ?? scroller())?.focus({ preventScroll: true });
    }
    mark(true);
  });

  function arrange() {
    const open = Boolean(panel()?.children.length);
    workspace()?.classList.toggle("cp-open", open);
    document.querySelectorAll(".cp-zoom").forEach((zoom) => { zoom.hidden = false; });
    // What came back with errors is still not saved.
    const form = panel()?.querySelector(".cp-form");
    if (form?.querySelector("[role=alert]")) form.classList.add("cp-dirty");
    showTrigger();
    showDays();
    setZoom(chosenZoom());
  }

  // The box or the way that a panel is about.
  function boxOf(about) {
    if (!about?.kind) return undefined;
    return [...document.querySelectorAll(".cp-canvas [data-step], .cp-canvas [data-after]")].find((one) =>
      about.kind === "add"
        ? one.dataset.after === about.after && one.dataset.way === about.way
        : one.dataset.step === about.step && (about.step || about.kind === "trigger"));
  }

  function mark(scroll) {
    document.querySelectorAll(".cp-chosen").forEach((one) => one.classList.remove("cp-chosen"));
    const chosen = boxOf(panel()?.dataset);
    if (!chosen) return;
    chosen.classList.add("cp-chosen");
    if (!scroll) return;
    const box = scroller(), inner = chosen.getBoundingClientRect(), outer = box.getBoundingClientRect();
    if (inner.left < outer.left || inner.right > outer.right) box.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
    if (inner.top < outer.top || inner.bottom > outer.bottom) box.scrollTop += inner.top + inner.height / 2 - outer.top - outer.height / 2;
  }

  /* Clicks -------------------------------------------------------------------- */

  let lastWritten = null;
  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.("#cp-panel textarea, #cp-panel input[type=text]:not([name^='step-'], [data-not-input])")) lastWritten = event.target;
  });

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("[data-close], [data-insert], [data-zoom]");
    if (!target) return;
    if ("close" in target.dataset) close();
    else if (target.dataset.insert) insert(target.dataset.insert);
    else if (target.dataset.zoom) zoom(target.dataset.zoom);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel()?.children.length && !event.defaultPrevented && !document.querySelector("dialog[open]")) close();
  });

  function close() {
    if (!mayLeave()) return;
    const about = document.querySelector(".cp-canvas .cp-chosen");
    const empty = document.createElement("aside");
    empty.id = "cp-panel";
    empty.className = "cp-panel";
    panel()?.replaceWith(empty);
    arrange();
    mark(false);
    about?.focus({ preventScroll: true });
  }

  function insert(text) {
    const field = lastWritten?.isConnected ? lastWritten
      : document.querySelector("#cp-panel textarea, #cp-panel [data-field=subject] input, #cp-panel [data-field=value] input");
    if (!field) return;
    field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
    field.focus();
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("cp:touched", { bubbles: true }));
  }

  /* The trigger's form -------------------------------------------------------- */

  // The fields of the chosen kind; the event's name is offered from those of it.
  function showTrigger() {
    const kind = document.querySelector("input[name=trigger-kind]:checked")?.value;
    for (const own of document.querySelectorAll("[data-triggers]")) {
      own.hidden = !own.dataset.triggers.split(" ").includes(kind);
    }
    for (const part of document.querySelectorAll("[data-when]")) {
      const [field, ...values] = part.dataset.when.split(" ");
      const input = document.querySelector(`select[name="${field}"], input[name="${field}"]:checked`);
      part.hidden = !values.includes(input?.value) && !part.querySelector(".cp-has-wrong");
    }
    const name = document.querySelector("input[name=trigger-event].cp-event-name");
    if (name) name.setAttribute("list", `cp-events-${kind || "event"}`);
  }

  // What is usual for the chosen kind, unless another number was typed.
  function offerHours(radio) {
    const hours = document.querySelector("input[name=trigger-max_age_hours]");
    const usual = [...document.querySelectorAll(".cp-choice[data-hours]")].map((one) => one.dataset.hours);
    if (hours && usual.includes(hours.value)) hours.value = radio.closest("[data-hours]").dataset.hours;
  }

  function showDays() {
    const rule = document.querySelector("select[name=trigger-entry]");
    const days = document.querySelector("[data-field=days]");
    if (rule && days) days.hidden = rule.value !== "interval" && !days.classList.contains("cp-has-wrong");
  }

  document.addEventListener("change", (event) => {
    const target = event.target;
    if (target.name === "trigger-kind") offerHours(target);
    if (target.name?.startsWith("trigger-")) showTrigger();
    if (target.name === "trigger-entry") showDays();
    if (target.dataset?.fetch && target.value) fetchPanel(target);
  });

  // Whoever writes into a field that belongs to a choice has chosen it.
  document.addEventListener("input", ({ target }) => {
    const radio = target.type === "radio" ? null : target.closest?.(".cp-choice")?.querySelector("input[type=radio]");
    if (radio) radio.checked = true;
  });

  // The panel again, begun with what was chosen.
  function fetchPanel(select) {
    const url = new URL(select.dataset.fetch, window.location.href);
    url.searchParams.set(select.dataset.parameter, select.value);
    htmx.ajax("GET", url.pathname + url.search, { source: select, target: "#cp-panel", swap: "outerHTML" })
      .then(() => panel()?.querySelector(".cp-form")?.classList.add("cp-dirty"));
  }

  /* Zoom ---------------------------------------------------------------------- */

  // As it was left; at first so that the width fits, if that stays readable.
  function chosenZoom() {
    const chosen = Number(sessionStorage.getItem(ZOOM));
    const canvas = document.querySelector(".cp-canvas"), box = scroller();
    if (chosen || !canvas) return chosen || 1;
    return Math.min(1, Math.max(0.75, (box.clientWidth - 18) / parseFloat(canvas.style.width)));
  }

  function setZoom(factor) {
    const canvas = document.querySelector(".cp-canvas");
    if (canvas) canvas.style.zoom = factor;
  }

  function zoom(how) {
    const canvas = document.querySelector(".cp-canvas"), box = scroller();
    let factor = chosenZoom();
    if (how === "fit") {
      const room = Math.min((box.clientWidth - 20) / parseFloat(canvas.style.width), (box.clientHeight - 20) / parseFloat(canvas.style.height));
      factor = Math.max(0.35, Math.min(1, room));
    } else {
      factor = Math.max(0.35, Math.min(1.5, factor * (how === "in" ? 1.2 : 1 / 1.2)));
    }
    if (Math.abs(factor - 1) < 0.05) factor = 1;
    sessionStorage.setItem(ZOOM, String(factor));
    setZoom(factor);
  }

  document.addEventListener("DOMContentLoaded", begin);
  if (document.readyState !== "loading") begin();

  function begin() {
    if (!document.querySelector(".cp")) return;
    arrange();
    mark(true);
    document.querySelector(".cp-tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    document.querySelector(".cp [aria-invalid=true]")?.focus();
    const box = scroller();
    if (box && !document.querySelector(".cp-chosen")) {
      // Wider than the room: begin where the trigger is.
      const trigger = document.querySelector(".cp-canvas .cp-trigger");
      if (trigger) box.scrollLeft = trigger.offsetLeft + trigger.offsetWidth / 2 - box.clientWidth / 2;
    }
    // An ordinary form of a whole page is sent on purpose.
    document.addEventListener("submit", (event) => { if (!event.target.hasAttribute("hx-post")) leaving = true; });
  }
})();
