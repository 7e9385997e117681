// Trying events: the switch between the kinds brings the text of each; Ctrl-Enter tries.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".se-editor");
  if (!form) return;
  const editor = form.querySelector("textarea");
  const texts = JSON.parse(document.getElementById("se-texts").textContent);
  let kind = new FormData(form).get("kind");
  form.addEventListener("change", (event) => {
    if (event.target.name !== "kind") return;
    texts[kind] = editor.value;
    kind = event.target.value;
    editor.value = texts[kind];
    form.requestSubmit();
  });
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
});
