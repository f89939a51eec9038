// Before the first paint: a theme that was chosen earlier.
try {
  const chosen = localStorage.getItem("report-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch (error) {
  // Storage is not available to this file: the theme is that of the system.
}
