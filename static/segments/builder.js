/* The builder of rules: see segments/builder.py. The state is the form itself; the
   server re-renders it after a change of its structure. */
(function () {
  "use strict";

  const PAUSE = 400;
  const undone = new Map(); // prefix → forms as they were, the latest last

  const builderOf = (element) => element.closest("[data-builder]");
  const byPrefix = (prefix) =>
    document.querySelector(`[data-builder="${CSS.escape(prefix)}"]`);
  const formOf = (element) => element.closest("form");

  function entries(builder) {
    const found = [];
    for (const input of builder.querySelectorAll("input, select, textarea")) {
      if (!input.name || input.disabled) continue;
      if (input.type === "checkbox" && !input.checked) continue;
      found.push([input.name, input.value]);
    }
    return found;
  }

  // Posting the builder, and putting the answer in its place.

  function post(builder, values, state) {
    const form = formOf(builder);
    const data = new FormData();
    for (const [name, text] of state || entries(builder)) data.append(name, text);
    const event = builder.dataset.eventFrom;
    if (event && form && form.elements[event]) {
      data.append(event, form.elements[event].value);
    }
    data.append("prefix", builder.dataset.builder);
    for (const [name, text] of Object.entries(values)) data.append(name, text);
    const token = form && form.querySelector("[name=csrfmiddlewaretoken]");
    if (token) data.append("csrfmiddlewaretoken", token.value);
    return data;
  }

  // One change after the other: an answer that comes late must not undo a later one.
  const queues = new Map();

  function change(builder, values, state) {
    const prefix = builder.dataset.builder;
    const before = queues.get(prefix) || Promise.resolve();
    const after = before.then(async () => {
      const now = byPrefix(prefix);
      if (now) await ask(now, prefix, values, state);
    });
    queues.set(prefix, after.catch(() => {}));
    return after;
  }

  async function ask(builder, prefix, values, state) {
    const asked = new Map(entries(builder));
    builder.setAttribute("aria-busy", "true");
    let response;
    try {
      response = await fetch(builder.dataset.fragment, {
        method: "POST",
        body: post(builder, values, state),
        credentials: "same-origin",
      });
    } catch (error) {
      response = null;
    }
    builder.removeAttribute("aria-busy");
    builder.removeAttribute("data-busy");
    if (!response || !response.ok || response.redirected) {
      say(builder, "This did not work. Check the connection and try again.", true);
      return;
    }
    const html = (await response.text()).trim();
    const now = byPrefix(prefix);
    if (!now) return;
    // What was typed while waiting is not lost, where names have stayed the same.
    const typed = [];
    if (values.do === "changed" || values.do === "add" || values.do === "show") {
      for (const [name, text] of entries(now)) {
        if (asked.has(name) && asked.get(name) !== text) typed.push([name, text]);
      }
    }
    const focused = now.contains(document.activeElement) ? document.activeElement : null;
    const active = focused ? focused.id : "";
    const selected = focused && focused.type === "text"
      ? [focused.selectionStart, focused.selectionEnd]
      : null;
    const isPicking = open && open.input.id === active;
    if (open && now.contains(open.input)) open.close();
    const box = document.createElement("template");
    box.innerHTML = html;
    const fresh = box.content.firstElementChild;
    const live = now.querySelector("[data-preview-for]");
    const slot = fresh.querySelector("[data-preview-for]");
    if (live && slot) slot.replaceWith(live);
    now.replaceWith(fresh);
    for (const [name, text] of typed) {
      const input = fresh.querySelector(`[name="${CSS.escape(name)}"]`);
      if (input && input.type !== "checkbox" && input.type !== "hidden") input.value = text;
    }
    look(fresh, active, selected, isPicking);
    ready(fresh);
    refresh(prefix, 0);
    fresh.dispatchEvent(new CustomEvent("builder:changed", { bubbles: true }));
  }

  function look(builder, active, selected, isPicking) {
    if (builder.dataset.focus !== undefined) {
      const path = builder.dataset.focus;
      const node = path
        ? builder.querySelector(`[data-node="${CSS.escape(path)}"]`)
        : builder;
      const first =
        node &&
        (node.querySelector(".scb-row input:not([type=hidden]), .scb-row select") ||
          node.querySelector("select, button"));
      if (first) {
        first.focus({ preventScroll: true });
        node.scrollIntoView({ block: "nearest" });
      }
    } else if (active) {
      const input = document.getElementById(active);
      if (input) {
        // Where one was already: nothing opens by itself.
        isSettling = true;
        input.focus({ preventScroll: true });
        isSettling = false;
        if (selected && input.type === "text") input.setSelectionRange(...selected);
        if (isPicking && isPicker(input)) new Picker(input);
      }
    }
  }

  function say(builder, text, isBad) {
    const status = builder.querySelector(".scb-status");
    if (!status) return;
    status.textContent = text;
    status.classList.toggle("scb-wrong", Boolean(isBad));
  }

  // Undo

  function remember(builder) {
    const stack = undone.get(builder.dataset.builder) || [];
    stack.push(entries(builder));
    undone.set(builder.dataset.builder, stack.slice(-30));
  }

  function ready(builder) {
    const stack = undone.get(builder.dataset.builder) || [];
    const button = builder.querySelector("[data-undo]");
    if (button) button.hidden = !stack.length;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do], [data-undo], [data-unchip]");
    const builder = button && builderOf(button);
    if (!builder) return;
    event.preventDefault();
    if (button.hasAttribute("data-undo")) {
      const stack = undone.get(builder.dataset.builder) || [];
      const state = stack.pop();
      if (state) change(builder, { do: "show" }, state);
    } else if (button.hasAttribute("data-unchip")) {
      const list = button.closest(".scb-list");
      button.closest(".scb-chip").remove();
      list.querySelector("[data-chips]").focus();
      changed(builder);
    } else if (!builder.hasAttribute("data-busy")) {
      // A second click is meant for what one sees, which is about to change.
      builder.setAttribute("data-busy", "");
      remember(builder);
      change(builder, {
        do: button.dataset.do,
        at: button.dataset.at,
        what: button.dataset.what || "",
      });
    }
  });

  // Typing

  document.addEventListener("change", (event) => {
    const input = event.target;
    const builder = input.closest && builderOf(input);
    if (builder) {
      if (input.hasAttribute("data-chips")) return;
      if (input.hasAttribute("data-redraw")) redraw(builder, input);
      else changed(builder);
      return;
    }
    // The event whose values are offered was changed.
    if (!input.name || !input.form) return;
    for (const one of input.form.querySelectorAll("[data-event-from]")) {
      if (one.dataset.eventFrom === input.name) change(one, { do: "show" });
    }
  });

  document.addEventListener("input", (event) => {
    const builder = event.target.closest && builderOf(event.target);
    if (builder && !event.target.hasAttribute("data-chips")) changed(builder);
  });

  function redraw(builder, input) {
    if (input.dataset.redraw === "show") {
      change(builder, { do: "show" });
    } else {
      const at = input.name.slice(builder.dataset.builder.length + 1);
      change(builder, { do: "changed", at: at });
    }
  }

  function changed(builder) {
    refresh(builder.dataset.builder, PAUSE);
    builder.dispatchEvent(new CustomEvent("builder:changed", { bubbles: true }));
  }

  // The live preview: first what is quick, then what is exact.

  const waiting = new Map();
  const running = new Map();

  function refresh(prefix, pause) {
    clearTimeout(waiting.get(prefix));
    waiting.set(
      prefix,
      setTimeout(() => preview(prefix, false), pause)
    );
  }

  async function preview(prefix, exact) {
    const builder = byPrefix(prefix);
    const panel = document.querySelector(`[data-preview-for="${CSS.escape(prefix)}"]`);
    if (!builder || !panel) return;
    if (running.get(prefix)) running.get(prefix).abort();
    const control = new AbortController();
    running.set(prefix, control);
    panel.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(panel.dataset.url, {
        method: "POST",
        body: post(builder, { exact: exact ? "1" : "", look: panel.dataset.look || "" }),
        credentials: "same-origin",
        signal: control.signal,
      });
      if (!response.ok || response.redirected) throw new Error(String(response.status));
      const html = await response.text();
      if (running.get(prefix) !== control) return;
      panel.innerHTML = html;
      panel.removeAttribute("aria-busy");
      mark(byPrefix(prefix), panel);
      if (!exact && panel.querySelector("[data-count-exactly]")) preview(prefix, true);
    } catch (error) {
      if (error.name === "AbortError") return;
      panel.removeAttribute("aria-busy");
      panel.innerHTML =
        '<p class="scb-wrong">The count could not be asked for. Check the connection, then change anything to try again.</p>';
    }
  }

  // Problems stand beside their fields, or at the nearest place above.
  function mark(builder, panel) {
    if (!builder) return;
    const found = panel.querySelectorAll("[data-problem]");
    for (const list of builder.querySelectorAll("[data-problems]")) {
      if (list.childElementCount) list.replaceChildren();
      const input = list.parentElement.querySelector("[aria-invalid]");
      if (input && list.parentElement.classList.contains("scb-control")) {
        input.removeAttribute("aria-invalid");
        list.parentElement.classList.remove("scb-bad");
      }
    }
    for (const problem of found) {
      let name = problem.dataset.problem;
      let list = null;
      while (name && !list) {
        list = builder.querySelector(`[data-problems="${CSS.escape(name)}"]`);
        if (!list) name = name.slice(0, Math.max(0, name.lastIndexOf(".")));
      }
      if (!list) continue;
      const item = document.createElement("li");
      item.textContent = problem.textContent;
      // A name that is still being typed is not wrong yet.
      const isTyping = document.activeElement.name === name;
      const soft = problem.hasAttribute("data-soft") || isTyping;
      if (isTyping && open) continue;
      item.className = soft ? "scb-soft" : "";
      list.append(item);
      const control = list.parentElement;
      if (!soft && control.classList.contains("scb-control")) {
        control.classList.add("scb-bad");
        const input = control.querySelector(".scb-input:not(.scb-meaning)");
        if (input) input.setAttribute("aria-invalid", "true");
      }
    }
  }

  // Chips: the values of a list

  function split(text) {
    text = text.trim();
    if (text.length > 2 && /^"[^"]*"$/.test(text)) return [text.slice(1, -1)];
    return text.split(/[,;\n\t]/).map((part) => part.trim()).filter(Boolean);
  }

  function addChips(input, whole) {
    const text = input.value.trim();
    if (!text) return false;
    const list = input.closest(".scb-list");
    const key = input.name.replace(/\.new$/, "");
    const as = input
      .closest(".scb-control")
      .querySelector(`[name="${CSS.escape(key + ".as")}"]`);
    const meaning = as ? as.value : "text";
    const known = new Set(
      [...list.querySelectorAll(".scb-chip input")].map((chip) => chip.value)
    );
    for (const part of whole ? [text] : split(text)) {
      const item = `${meaning}:${part}`;
      if (known.has(item)) continue;
      known.add(item);
      const chip = document.createElement("span");
      chip.className = "scb-chip";
      const hidden = document.createElement("input");
      hidden.type = "hidden";
      hidden.name = key;
      hidden.value = item;
      const words = document.createElement("span");
      words.textContent = part;
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("data-unchip", "");
      button.setAttribute("aria-label", `Remove ${part}`);
      button.textContent = "×";
      chip.append(hidden, words, button);
      list.insertBefore(chip, list.querySelector("textarea") || input);
    }
    input.value = "";
    input.placeholder = "Add another";
    const builder = builderOf(input);
    say(builder, `${list.querySelectorAll(".scb-chip").length} values.`);
    changed(builder);
    return true;
  }

  // Pickers: a text field with offers below it (ARIA combobox)

  let open = null;
  let isSettling = false;

  class Picker {
    constructor(input) {
      if (open) open.close();
      open = this;
      this.input = input;
      this.active = -1;
      this.list = document.createElement("ul");
      this.list.className = "scb-offers";
      this.list.id = `${input.id}_offers`;
      this.list.hidden = true;
      this.list.setAttribute("role", "listbox");
      this.list.setAttribute("aria-label", "Offered");
      input.closest(".scb-control").append(this.list);
      this.ask(false);
    }

    async ask(isTyped) {
      const builder = builderOf(this.input);
      if (!builder) return this.close();
      const query = new URLSearchParams(this.input.dataset.offers);
      query.set("q", isTyped || this.input.hasAttribute("data-chips") ? this.input.value.trim() : "");
      if (this.control) this.control.abort();
      this.control = new AbortController();
      try {
        const response = await fetch(`${builder.dataset.offers}?${query}`, {
          credentials: "same-origin",
          signal: this.control.signal,
        });
        if (!response.ok) return;
        this.show((await response.json()).offers);
      } catch (error) {
        /* Offers are a help only: without them one types. */
      }
    }

    show(offers) {
      if (open !== this) return;
      this.forget();
      this.list.replaceChildren(
        ...offers.map((offer, i) => {
          const item = document.createElement("li");
          item.id = `${this.list.id}_${i}`;
          item.setAttribute("role", "option");
          item.dataset.value = offer.value;
          const title = document.createElement("span");
          title.className = "scb-offer";
          title.textContent = offer.title ? `${offer.title} ` : offer.value;
          if (offer.title && offer.title !== offer.value) {
            const code = document.createElement("code");
            code.textContent = offer.value;
            title.append(code);
          }
          item.append(title);
          if (offer.note) {
            const note = document.createElement("small");
            note.textContent = offer.note;
            item.append(note);
          }
          item.setAttribute("aria-selected", String(offer.value === this.input.value));
          return item;
        })
      );
      const isOpen = offers.length > 0;
      this.list.hidden = !isOpen;
      this.input.setAttribute("aria-expanded", String(isOpen));
    }

    move(step) {
      const items = [...this.list.children];
      if (!items.length) return this.ask(false);
      if (this.active >= 0) items[this.active].classList.remove("scb-active");
      this.active = (this.active + step + items.length + (this.active < 0 && step < 0 ? 1 : 0)) % items.length;
      const item = items[this.active];
      item.classList.add("scb-active");
      item.scrollIntoView({ block: "nearest" });
      this.input.setAttribute("aria-activedescendant", item.id);
    }

    choose(item) {
      const input = this.input;
      input.value = item.dataset.value;
      if (input.hasAttribute("data-chips")) {
        this.forget();
        addChips(input, true);
        this.ask(true);
        return;
      }
      this.close();
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }

    forget() {
      const item = this.list.children[this.active];
      if (item) item.classList.remove("scb-active");
      this.active = -1;
      this.input.removeAttribute("aria-activedescendant");
    }

    close() {
      if (this.control) this.control.abort();
      clearTimeout(this.timer);
      this.list.remove();
      this.input.setAttribute("aria-expanded", "false");
      this.input.removeAttribute("aria-activedescendant");
      if (open === this) open = null;
    }
  }

  const isPicker = (element) =>
    element.matches && element.matches("[data-builder] input[data-offers]");

  function openAt(input) {
    if (!open || open.input !== input) new Picker(input);
  }

  document.addEventListener("focusin", (event) => {
    if (isSettling) return;
    if (isPicker(event.target)) openAt(event.target);
    else if (open && !open.list.contains(event.target)) open.close();
  });
  document.addEventListener("focusout", (event) => {
    const input = event.target;
    if (input.matches && input.matches("[data-chips]")) addChips(input, false);
    if (open && open.input === input) open.close();
  });
  document.addEventListener("mousedown", (event) => {
    if (!open) {
      if (isPicker(event.target) && document.activeElement === event.target) {
        openAt(event.target);
      }
      return;
    }
    const item = event.target.closest("[role=option]");
    if (item && open.list.contains(item)) {
      event.preventDefault();
      open.choose(item);
    }
  });
  document.addEventListener("input", (event) => {
    if (!isPicker(event.target)) return;
    openAt(event.target);
    clearTimeout(open.timer);
    const picker = open;
    // What was pointed at is not meant by what is typed after it.
    picker.forget();
    picker.timer = setTimeout(() => picker.ask(true), 120);
  });
  document.addEventListener("keydown", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("[data-builder] input")) return;
    const isOpen = open && open.input === input && !open.list.hidden;
    if (isPicker(input) && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      openAt(input);
      open.move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      event.stopPropagation();
      open.close();
    } else if (event.key === "Enter") {
      // Enter never sends the form from within the builder: it confirms a value.
      event.preventDefault();
      if (isOpen && open.active >= 0) open.choose(open.list.children[open.active]);
      else if (input.hasAttribute("data-chips")) addChips(input, false);
      else if (isOpen) {
        open.close();
        input.dispatchEvent(new Event("change", { bubbles: true }));
      } else input.dispatchEvent(new Event("change", { bubbles: true }));
    } else if (event.key === "," && input.hasAttribute("data-chips") && !input.value.startsWith('"')) {
      event.preventDefault();
      addChips(input, false);
    } else if (event.key === "Backspace" && input.hasAttribute("data-chips") && !input.value) {
      const chips = input.closest(".scb-list").querySelectorAll(".scb-chip");
      if (chips.length) {
        chips[chips.length - 1].remove();
        changed(builderOf(input));
      }
    }
  });

  // Builders that are there, and those that come later.

  const seen = new WeakSet();
  function greet() {
    for (const panel of document.querySelectorAll("[data-preview-for]")) {
      if (seen.has(panel)) continue;
      seen.add(panel);
      refresh(panel.dataset.previewFor, 0);
    }
  }
  function start() {
    greet();
    new MutationObserver(greet).observe(document.body, { childList: true, subtree: true });
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
