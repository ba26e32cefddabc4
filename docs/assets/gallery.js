// The gallery's search: words filter the pictures, and a family can be chosen. Without a script the
// whole wall is there.
const gallery = document.querySelector(".gallery");
if (gallery) {
  const families = [...gallery.querySelectorAll("h2")].map((title) => ({
    name: title.firstChild.textContent.trim(),
    title,
    list: title.nextElementSibling,
  }));
  const words = Object.assign(document.createElement("input"), {
    type: "search",
    placeholder: "Filter: focal, ranking, image ...",
  });
  words.setAttribute("aria-label", "Filter the losses");
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Family");
  choice.append(new Option("all families", ""), ...families.map(({ name }) => new Option(name, name)));
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const tools = document.createElement("div");
  tools.className = "gallery-tools";
  tools.append(words, choice, count);
  gallery.before(tools);

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { name, title, list } of families) {
      let any = false;
      for (const card of list.children) {
        const text = `${name} ${card.textContent} ${card.textContent.replaceAll("_", " ")}`.toLowerCase();
        const fits = (!choice.value || choice.value === name) && wanted.every((w) => text.includes(w));
        card.hidden = !fits;
        any ||= fits;
        shown += fits;
      }
      title.hidden = list.hidden = !any;
    }
    count.textContent = `${shown} losses`;
  };
  words.addEventListener("input", show);
  choice.addEventListener("change", show);
  show();
}
