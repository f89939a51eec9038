const themeButton = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function showTheme() {
  themeButton.setAttribute("aria-pressed", String(isDark()));
}

themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("report-theme", document.documentElement.dataset.theme);
  } catch (error) {
    // The choice lasts until the page is closed.
  }
  showTheme();
  redraw();
});
systemDark.addEventListener("change", () => {
  showTheme();
  redraw();
});
showTheme();
