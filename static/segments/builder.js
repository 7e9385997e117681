/* The builder of rules: see segments/builder.py. The server renders it, htmx carries the
   form there and back. Here is what a page cannot do by itself: offers, values as
   chips, undo, the focus, and problems beside their fields. */
(() => {
  "use strict";

  const LOST = "This did not work. Check the connection and try again.";
  const NO_COUNT = "The count could not be asked for. Check the connection, then change anything to try again.";
  const ROOM = 360; // pixels that a list of offers and the bar at the foot take
  const MANY = 50; // values: more are lines of one field
  // After these, what was typed meanwhile still has its place.
  const IN_PLACE = ["changed", "add", "show"];

  let pressed = null; // What the pointer is held down on.
  document.addEventListener("pointerdown", (event) => { pressed = event.target; }, true);
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { pressed = null; }, true);

  /* The builder: deeds of its buttons, undo, and what is told about it ----------- */

  const ruleBuilder = () => ({
    past: [],
    future: [],
    now: "",
    status: "",
    isWrong: false,
    isBusy: false,
    told: new WeakMap(),
    waiting: [],
    typed: [],
    isPicking: false,
    menu: "",

    init() {
      this.root = this.$el;
      this.prefix = this.root.dataset.builder;
      this.now = this.written();
    },

    entries() {
      const all = [...new FormData(this.root.closest("form"))];
      return all.filter(([name]) => name.startsWith(`${this.prefix}.`) && !name.startsWith(`${this.prefix}.opt.`));
    },
    written() {
      return new URLSearchParams(this.entries()).toString();
    },
    say(text, isWrong = false) {
      this.status = text;
      this.isWrong = isWrong;
    },
    tell() {
      this.root.dispatchEvent(new CustomEvent("builder:changed", { bubbles: true }));
    },

    // A state is kept before it is left.
    commit(isDeed = false) {
      const written = this.written();
      if (written === this.now && !isDeed) return;
      if (written !== this.now) this.past.push(this.now);
      if (isDeed) this.past.push(written);
      this.past.splice(0, this.past.length - 50);
      this.future = [];
      this.now = written;
    },
    travel(from, to, word) {
      this.commit();
      if (!from.length || this.isBusy) return;
      to.push(this.now);
      this.now = from.pop();
      this.request({ do: "show", state: this.now, word });
    },
    deed(values) {
      // A second click is meant for what one sees, which is about to change.
      if (this.isBusy) return;
      this.flush();
      this.isBusy = true;
      this.commit(true);
      this.request(values);
    },
    move(from, to, place) {
      this.deed({ do: "move", at: from, what: `${to}:${place}` });
    },
    request(values) {
      htmx.trigger(this.root, "builder:ask", { ...values, prefix: this.prefix });
    },
    // Leaving a field by a click must not take away what is just being clicked on.
    redraw(input) {
      const values = { do: "changed", at: input.name.slice(this.prefix.length + 1) };
      if (!pressed || pressed === input) return this.request(values);
      this.waiting.push(values);
      document.addEventListener("pointerup", () => setTimeout(() => this.flush()), { once: true });
      setTimeout(() => this.flush(), 500);
    },
    flush() {
      for (const values of this.waiting.splice(0)) this.request(values);
    },
    failed(why = LOST) {
      if (this.isBusy) this.past.pop();
      this.isBusy = false;
      this.say(why, true);
    },

    changed(input) {
      if (!this.root.contains(input)) {
        // The event whose values are offered.
        const isEvent = input.name && input.name === this.root.dataset.eventFrom;
        if (isEvent && input.form === this.root.closest("form")) this.request({ do: "show" });
        return;
      }
      if (input.closest("[data-list]") && !input.matches("textarea")) return;
      // What was chosen from offers is told of again when its field is left.
      if (input.getAttribute("role") === "combobox" && this.told.get(input) === input.value) return;
      this.told.set(input, input.value);
      this.commit();
      if ("redraw" in input.dataset) this.redraw(input);
      else this.tell();
    },

    box: {
      "@click"(event) {
        const button = event.target.closest("[data-do], [data-unchip]");
        if (!button) return;
        const { do: deed, at, what = "" } = button.dataset;
        if (deed) return this.deed({ do: deed, at, what });
        const list = button.closest("[data-list]");
        button.closest(".scb-chip").remove();
        list.querySelector("[x-bind=field]").focus();
        this.commit();
        this.tell();
      },
      "@change.document"(event) {
        this.changed(event.target);
      },
      "@input"(event) {
        if (!event.target.closest("[data-list]")) this.tell();
      },
      "@keydown"(event) {
        const { key, target } = event;
        const { handle } = target.dataset;
        if (handle !== undefined && (key === "ArrowUp" || key === "ArrowDown")) {
          event.preventDefault();
          this.deed({ do: key === "ArrowUp" ? "up" : "down", at: handle });
        } else if (key === "Enter" && target.matches("input")) {
          event.preventDefault(); // Never sends the form from within the builder.
        } else if (key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && !target.matches("input, textarea")) {
          event.preventDefault();
          if (event.shiftKey) this.travel(this.future, this.past, "Redone.");
          else this.travel(this.past, this.future, "Undone.");
        }
      },
      "@htmx:config-request"(event) {
        if (event.target !== this.root) return;
        const { do: deed = "", at = "", what = "", state, prefix } = event.detail.triggeringEvent.detail;
        Object.assign(event.detail.parameters, { do: deed, at, what, prefix }, state === undefined ? {} : { state });
      },
      "@htmx:before-swap"(event) {
        const { target, xhr, requestConfig } = event.detail;
        if (target !== this.root.querySelector(".scb-tree")) return;
        if (!event.detail.shouldSwap || !xhr.responseText.includes("scb-tree")) {
          event.detail.shouldSwap = false;
          this.failed(isLoggedOut(event.detail) ? LOGGED_OUT : LOST);
          return;
        }
        const sent = requestConfig.formData;
        const isInPlace = IN_PLACE.includes(sent.get("do")) && !sent.has("state");
        this.menu = sent.get("do") === "changed" ? this.root.querySelector("details[open]")?.id : "";
        this.typed = isInPlace ? this.entries().filter(([name, text]) => sent.has(name) && !sent.getAll(name).includes(text)) : [];
        this.isPicking = "picking" in document.activeElement.dataset;
      },
      "@htmx:after-swap"(event) {
        const tree = event.target;
        if (!tree.matches(".scb-tree")) return;
        const { word } = event.detail.requestConfig.triggeringEvent.detail;
        for (const [name, text] of this.typed) {
          const input = tree.querySelector(`[name="${CSS.escape(name)}"]`);
          if (input && !["hidden", "checkbox"].includes(input.type)) input.value = text;
        }
        if (this.menu) document.getElementById(this.menu)?.setAttribute("open", "");
        this.now = this.written();
        if (this.isBusy && this.past.at(-1) === this.now) this.past.pop(); // Nothing came of it.
        this.say(word || tree.dataset.status || "");
        this.isBusy = false;
        this.tell();
        this.$nextTick(() => {
          const wanted = tree.querySelector("[data-focus]");
          if (wanted) wanted.focus();
          else if (this.isPicking) document.activeElement.dispatchEvent(new CustomEvent("builder:pick"));
        });
      },
      "@htmx:send-error"(event) {
        if (event.target === this.root) this.failed();
      },
    },
    travels: {
      ":hidden"() { return !this.past.length && !this.future.length; },
    },
    undo: {
      ":aria-disabled"() { return String(!this.past.length); },
      "@click"() { this.travel(this.past, this.future, "Undone."); },
    },
    redo: {
      ":aria-disabled"() { return String(!this.future.length); },
      "@click"() { this.travel(this.future, this.past, "Redone."); },
    },
    said: {
      "x-text"() { return this.status; },
      ":class"() { return this.isWrong ? "scb-wrong" : ""; },
    },
  });

  /* A field with offers below it (an ARIA combobox), for one value or for several - */

  // Of a pasted column every line is a value, commas and all. In double quotes stands a
  // value with a comma; a double quote within them is written twice.
  const OPEN_QUOTE = /^"(?:[^"]|"")*$/;
  function split(text) {
    const marks = /[\n\t]/.test(text.trim()) ? "\n\t" : ",;";
    const value = new RegExp(`\\s*(?:"((?:[^"]|"")+)"|([^${marks}]*?))[,;\\s]*(?:[${marks}]|$)`, "g");
    const found = [...text.matchAll(value)].map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);
    return found.filter(Boolean);
  }

  const rulePicker = () => ({
    input: null,
    offers: null,
    holder: null,
    key: "", // The name of several values.
    active: -1,
    isOpen: false,
    wanted: "",

    init() {
      this.holder = this.$el;
      this.input = this.$el.querySelector("[x-bind=field]");
      this.offers = this.$el.querySelector("[role=listbox]");
      this.key = this.$el.dataset.list || "";
    },
    get items() {
      return this.offers ? [...this.offers.children] : [];
    },
    // On opening all is offered, while typing what fits.
    ask(text) {
      if (!this.offers) return;
      this.wanted = text;
      this.input.dataset.picking = "";
      htmx.trigger(this.input, "offer");
    },
    point(to) {
      this.active = to;
      this.items.forEach((item, i) => {
        item.id = `${this.offers.id}_${i}`;
        item.setAttribute("aria-selected", String(i === to));
        if (i === to) item.scrollIntoView({ block: "nearest" });
      });
    },
    close() {
      this.isOpen = false;
      delete this.input.dataset.picking;
      this.point(-1);
    },
    choose(item) {
      if (this.key) {
        this.add([item.dataset.value]);
        this.ask("");
        return;
      }
      this.set(item);
      this.close();
      this.input.dispatchEvent(new Event("change", { bubbles: true }));
    },
    set(item) {
      this.input.value = item.dataset.value;
      this.number(item.dataset.key);
    },
    number(text = "") {
      const hidden = this.holder.querySelector("input[data-key]");
      if (hidden) hidden.value = text;
    },

    // Several values
    chips() {
      const inputs = [...this.holder.querySelectorAll(".scb-chip input")];
      return inputs.map((input) => input.value.slice(input.value.indexOf(":") + 1));
    },
    add(texts) {
      const as = this.holder.closest(".scb-control").querySelector(`[name="${CSS.escape(`${this.key}.as`)}"]`);
      const known = new Set(this.chips());
      for (const text of texts) {
        if (known.has(text)) continue;
        known.add(text);
        const chip = this.holder.querySelector("template").content.firstElementChild.cloneNode(true);
        chip.querySelector("input").value = `${as ? as.value : "text"}:${text}`;
        chip.querySelector("span").textContent = text;
        chip.querySelector("button").setAttribute("aria-label", `Remove ${text}`);
        this.holder.querySelector("template").before(chip);
      }
      this.input.value = "";
      this.say(`${known.size} value${known.size === 1 ? "" : "s"}.`);
      this.commit();
      if (known.size > MANY) this.redraw(this.input);
      else this.tell();
    },

    field: {
      ":aria-expanded"() { return String(this.isOpen); },
      ":aria-activedescendant"() { return this.active < 0 ? null : `${this.offers.id}_${this.active}`; },
      "@focus"() { this.ask(""); },
      "@builder:pick"() { this.ask(this.input.value.trim()); },
      "@mousedown"() { if (!this.isOpen && document.activeElement === this.input) this.ask(""); },
      "@input"() {
        this.point(-1);
        this.number();
      },
      "@input.debounce.120ms"() { if (document.activeElement === this.input) this.ask(this.input.value.trim()); },
      "@change"() {
        // Written to the end, though in other letters.
        if (!("strict" in this.input.dataset) || this.key) return;
        const written = this.input.value.trim().toLowerCase();
        const meant = this.items.find((item) => item.dataset.value.toLowerCase() === written);
        if (meant) this.set(meant);
      },
      "@blur"() {
        if (this.key && this.input.value.trim()) this.add(split(this.input.value));
        this.close();
      },
      "@paste"(event) {
        const text = event.clipboardData.getData("text");
        if (!this.key || !text.includes("\n")) return;
        event.preventDefault();
        this.add(split(text));
      },
      "@keydown"(event) {
        const { key } = event;
        const { items, input } = this;
        const isChosen = this.isOpen && this.active >= 0;
        if ((key === "ArrowDown" || key === "ArrowUp") && this.offers) {
          event.preventDefault();
          if (!this.isOpen || !items.length) return this.ask("");
          const from = this.active < 0 && key === "ArrowUp" ? 0 : this.active;
          this.point((from + (key === "ArrowDown" ? 1 : -1) + items.length) % items.length);
        } else if (key === "Escape" && this.isOpen) {
          event.preventDefault();
          event.stopPropagation();
          this.close();
        } else if (key === "Enter") {
          event.preventDefault();
          const only = "strict" in input.dataset && this.isOpen && items.length === 1 && input.value.trim();
          if (isChosen || only) return this.choose(items[isChosen ? this.active : 0]);
          if (this.key) return this.add(split(input.value));
          this.close();
          input.dispatchEvent(new Event("change", { bubbles: true }));
        } else if (key === "," && this.key && !OPEN_QUOTE.test(input.value)) {
          event.preventDefault();
          this.add(split(input.value));
        } else if (key === "Backspace" && this.key && !input.value) {
          const chips = this.holder.querySelectorAll(".scb-chip");
          if (chips.length) chips[chips.length - 1].querySelector("button").click();
        }
      },
      "@htmx:config-request"(event) { event.detail.parameters.q = this.wanted; },
      "@htmx:after-request.stop"() {
        const known = new Set(this.chips());
        for (const item of this.items) if (known.has(item.dataset.value)) item.remove();
        this.point(-1);
        this.isOpen = this.items.length > 0 && document.activeElement === this.input;
        place(this.offers, this.input);
      },
      // Offers are a help only: without them one types.
      "@htmx:response-error.stop"() {},
      "@htmx:send-error.stop"() {},
    },
    list: {
      ":hidden"() { return !this.isOpen; },
      "@mousedown.prevent"(event) {
        const item = event.target.closest("[role=option]");
        if (item) this.choose(item);
      },
    },
  });

  // Below what it belongs to, or above where there is no room.
  function place(list, anchor) {
    const { top, bottom } = anchor.getBoundingClientRect();
    list.classList.toggle("scb-above", window.innerHeight - bottom < ROOM && top > ROOM);
  }

  /* A menu closes when one looks elsewhere ---------------------------------------- */

  const ruleMenu = () => ({
    menu: {
      "@toggle"() { place(this.$root.lastElementChild, this.$root); },
      "@click.outside"() { this.$root.open = false; },
      "@keydown.escape"(event) {
        if (!this.$root.open) return;
        event.stopPropagation();
        event.preventDefault();
        this.$root.open = false;
        this.$root.firstElementChild.focus();
      },
    },
  });

  const register = () => {
    Alpine.data("ruleBuilder", ruleBuilder);
    Alpine.data("rulePicker", rulePicker);
    Alpine.data("ruleMenu", ruleMenu);
  };
  if (window.Alpine) register();
  else document.addEventListener("alpine:init", register);

  /* What the preview says -------------------------------------------------------- */

  // Parts of a slot ask again by themselves; that is theirs.
  const slotOf = (event) => (event.detail.target?.matches?.("[data-preview-for]") ? event.detail.target : null);

  // Problems stand beside their fields, or at the nearest place above.
  function mark(slot) {
    const builder = document.querySelector(`[data-builder="${CSS.escape(slot.dataset.previewFor)}"]`);
    if (!builder) return;
    for (const list of builder.querySelectorAll("[data-problems]")) {
      if (!list.childElementCount) continue;
      list.replaceChildren();
      show(list, false);
    }
    for (const problem of slot.querySelectorAll("[data-problem]")) {
      let name = problem.dataset.problem;
      let list = null;
      while (name && !list) {
        list = builder.querySelector(`[data-problems="${CSS.escape(name)}"]`);
        if (!list) name = name.slice(0, Math.max(0, name.lastIndexOf(".")));
      }
      if (!list) continue;
      // What is still being written is not wrong yet.
      const focused = document.activeElement;
      const isBeingWritten = list.parentElement.contains(focused) && focused !== document.body;
      if (isBeingWritten && focused.getAttribute("aria-expanded") === "true") continue;
      const isSoft = "soft" in problem.dataset || isBeingWritten;
      const item = document.createElement("li");
      item.textContent = problem.textContent;
      item.className = isSoft ? "scb-soft" : "";
      list.append(item);
      if (!isSoft) show(list, true);
    }
  }

  function show(list, isBad) {
    const control = list.closest(".scb-control");
    if (control !== list.parentElement) return;
    control.classList.toggle("scb-bad", isBad);
    const input = control.querySelector(".scb-input:not(.scb-meaning)");
    if (isBad) input?.setAttribute("aria-invalid", "true");
    else input?.removeAttribute("aria-invalid");
  }

  document.addEventListener("htmx:afterRequest", (event) => {
    const slot = slotOf(event);
    if (slot && event.detail.successful) mark(slot);
  });
  for (const failure of ["htmx:responseError", "htmx:sendError"]) {
    document.addEventListener(failure, (event) => {
      const slot = slotOf(event);
      if (!slot) return;
      slot.innerHTML = '<p class="scb-wrong" role="alert"></p>';
      slot.firstChild.textContent = isLoggedOut(event.detail) ? LOGGED_OUT : NO_COUNT;
    });
  }
})();
