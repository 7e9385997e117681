// Lists of customers: choosing a column of a file by looking at it, and waiting.
"use strict";

(() => {
    const SEEN = 64 * 1024;

    const input = document.getElementById("list-file");
    const field = document.getElementById("list-column-field");
    const column = document.getElementById("list-column");

    /** The first rows of a CSV text, as lists of fields. */
    function rowsOf(text, most) {
        const first = text.split(/\r?\n/, 1)[0];
        const delimiter = [",", ";", "\t", "|"].reduce((best, one) =>
            first.split(one).length > first.split(best).length ? one : best);
        const rows = [];
        let row = [], cell = "", quoted = false;
        for (let place = 0; place < text.length && rows.length < most; place++) {
            const letter = text[place];
            if (quoted) {
                if (letter !== '"') cell += letter;
                else if (text[place + 1] === '"') { cell += '"'; place++; }
                else quoted = false;
            } else if (letter === '"' && !cell) quoted = true;
            else if (letter === delimiter) { row.push(cell); cell = ""; }
            else if (letter === "\n") { rows.push([...row, cell.replace(/\r$/, "")]); row = []; cell = ""; }
            else cell += letter;
        }
        if (rows.length < most && (cell || row.length)) rows.push([...row, cell]);
        return rows;
    }

    async function offer() {
        field.querySelector(".sd-pick-column")?.remove();
        column.hidden = false;
        const file = input.files[0];
        if (!file) return;
        const bytes = new Uint8Array(await file.slice(0, SEEN).arrayBuffer());
        const encoding = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : "utf-8";
        const rows = rowsOf(new TextDecoder(encoding).decode(bytes), 5);
        const width = Math.max(0, ...rows.map(row => row.length));
        if (width < 2 || width > 200) return;
        const list = document.createElement("div");
        list.className = "sd-pick-column";
        list.setAttribute("role", "radiogroup");
        list.setAttribute("aria-label", "Column of the file");
        for (let place = 0; place < width; place++) {
            const label = document.createElement("label");
            const radio = document.createElement("input");
            radio.type = "radio";
            radio.name = "picked";
            radio.addEventListener("change", () => { column.value = String(place + 1); });
            const words = document.createElement("span");
            const name = document.createElement("b");
            name.textContent = rows[0][place]?.trim() || `Column ${place + 1}`;
            const some = document.createElement("small");
            some.textContent = rows.slice(1).map(row => row[place]?.trim()).filter(Boolean).slice(0, 3).join(", ");
            words.append(name, some);
            label.append(radio, words);
            list.append(label);
        }
        column.hidden = true;
        column.value = "";
        field.append(list);
    }

    input?.addEventListener("change", offer);

    // A long text is sent as a file: a form takes no more than some megabytes of text.
    const pasted = document.getElementById("list-pasted");
    const LONG = 500_000;

    function sendAsFile() {
        if (!pasted || pasted.value.length < LONG || input.files.length) return;
        const lines = pasted.value.split(/[,;\t\n]/).map(one => one.trim()).filter(Boolean).join("\n");
        const carrier = new DataTransfer();
        carrier.items.add(new File([lines], "pasted.txt", {type: "text/plain"}));
        input.files = carrier.files;
        column.value = "1";
        pasted.value = "";
    }

    for (const form of document.querySelectorAll("form[data-busy]")) {
        form.addEventListener("submit", () => {
            sendAsFile();
            const button = form.querySelector("button[type=submit]");
            button.disabled = true;
            button.textContent = form.dataset.busy;
        });
    }
    // Coming back by the browser's button shows the page as it was left.
    window.addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
})();
